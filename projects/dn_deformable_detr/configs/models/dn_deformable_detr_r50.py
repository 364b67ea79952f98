"""DN-Deformable-DETR with a ResNet-50 and four feature levels: DAB-Deformable-DETR, denoising, and an indicator.

`model.denoising=None` switches denoising off. The indicator remains, so that weights trained with and without
denoising have the same shapes.
"""

from detrex_lite.config import get_config

model = get_config("projects/dab_deformable_detr/configs/models/dab_deformable_detr_r50.py").model

model.queries.indicator = True
model.denoising = get_config("common/denoising.py").group_denoising
