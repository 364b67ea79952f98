"""DAB-Deformable-DETR with a ResNet-50 and four feature levels: what differs from Deformable DETR.

`model.as_two_stage=True` takes queries from the encoder, `model.with_box_refine=False` leaves the first boxes as the
references of all layers.
"""

from detrex_lite.config import get_config
from detrex_lite.projects.dab_deformable_detr.modeling import (
    DabDeformableDETR,
    DabDeformableDetrTransformer,
    DabDeformableDetrTransformerDecoder,
)

model = get_config("projects/deformable_detr/configs/models/deformable_detr_r50.py").model

model._target_ = DabDeformableDETR
model.transformer._target_ = DabDeformableDetrTransformer
model.transformer.decoder._target_ = DabDeformableDetrTransformerDecoder
model.transformer.encoder.feedforward_dim = 2048
model.transformer.encoder.dropout = 0.0
model.transformer.decoder.look_forward_twice = False
model.transformer.decoder.with_norm = False
model.transformer.decoder.scale_positions = True
model.with_box_refine = True
model.denoising = None
