"""DAB-DETR with a ResNet-50 as in the paper's repository: differences from detrex's.

`model.num_patterns=3` is the paper's variant with three learned contents for each anchor.
"""

from .dab_detr_r50 import model

model.backbone.freeze_at = 2
model.queries.centers = "learned"
model.queries.normal_init = True
