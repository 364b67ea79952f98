"""DINO with a ResNet-50 and four feature levels: what differs from DAB-Deformable-DETR.

Each idea has a switch: `model.denoising=None`, `model.transformer.mixed_query_selection=False`,
`model.transformer.decoder.look_forward_twice=False`, `model.as_two_stage=False`.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import ContrastiveDenoising
from detrex_lite.projects.dino.modeling import DINO, DINOTransformer

model = get_config("projects/dab_deformable_detr/configs/models/dab_deformable_detr_r50.py").model

model._target_ = DINO
model.transformer._target_ = DINOTransformer
model.transformer.mixed_query_selection = True
model.transformer.decoder.look_forward_twice = True
model.transformer.decoder.with_norm = True
model.transformer.decoder.scale_positions = False
model.num_queries = 900
model.as_two_stage = True
model.denoising = L(ContrastiveDenoising)(
    num_classes="${..num_classes}",
    embed_dim="${..embed_dim}",
    num_pairs=100,
    label_noise_prob=0.25,
    box_noise_scale=1.0,
)
