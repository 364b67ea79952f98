"""Focus-DETR with a Swin-B of windows of 12x12."""

from .focus_detr_swin_tiny_224 import model

model.backbone.model_name = "swin_base_patch4_window12_384"
model.backbone.drop_path_rate = 0.2
