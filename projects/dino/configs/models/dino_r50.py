"""DINO with a ResNet-50 and four feature levels, as detrex trains it: differences from DAB-Deformable-DETR.

Each idea has a switch: `model.denoising=None`, `model.queries.mixed_selection=False`,
`model.heads.look_forward_twice=False`, `model.as_two_stage=False`.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.projects.dino.modeling import DINO

model = get_config("projects/dab_deformable_detr/configs/models/dab_deformable_detr_r50.py").model

model._target_ = DINO
model.transformer.decoder.scale_positions = False
model.queries.mixed_selection = "${..as_two_stage}"
model.heads.look_forward_twice = True
model.heads.norm = L(nn.LayerNorm)(normalized_shape="${...embed_dim}")
model.num_queries = 900
model.as_two_stage = True
model.denoising = get_config("common/denoising.py").contrastive
