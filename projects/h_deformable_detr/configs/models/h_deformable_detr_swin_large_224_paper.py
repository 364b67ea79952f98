"""H-Deformable DETR with a Swin-L of windows of 7x7 as in the paper's repository."""

from .h_deformable_detr_swin_tiny_224_paper import model

model.backbone.model_name = "swin_large_patch4_window7_224"
