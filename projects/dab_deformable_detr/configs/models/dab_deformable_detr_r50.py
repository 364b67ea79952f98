"""DAB-Deformable-DETR with a ResNet-50 and four levels, as detrex trains it: differences from Deformable DETR.

`model.as_two_stage=True` selects queries from the encoder; with `model.with_box_refine=False`, the initial boxes remain
the references of all layers.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling.deformable import AnchorQueries, DeformableAnchorDecoder
from detrex_lite.projects.dab_deformable_detr.modeling import DabDeformableDETR

model = get_config("projects/deformable_detr/configs/models/deformable_detr_r50.py").model

model._target_ = DabDeformableDETR
model.transformer.encoder.layer.ffn.feedforward_dim = 2048
model.transformer.encoder.layer.attn.dropout = 0.0
model.transformer.decoder = L(DeformableAnchorDecoder)(
    **{key: value for key, value in model.transformer.decoder.items() if key != "_target_"},
    embed_dim="${...embed_dim}",
    scale_positions=True,
    temperature=10000,
)
model.queries._target_ = AnchorQueries
model.queries.indicator = False
model.queries.normal_init = False
model.with_box_refine = True
model.denoising = None
