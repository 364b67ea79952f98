"""DN-DETR-DC5 with a ResNet-50 and three queries at each anchor, as in the paper's repository."""

from .dn_detr_r50_dc5_paper import model

model.num_patterns = 3
