"""DN-Deformable-DETR with a ResNet-50 and four feature levels: what differs from DAB-Deformable-DETR.

`model.denoising=None` switches denoising off.
"""

from detrex_lite.config import get_config
from detrex_lite.projects.dn_deformable_detr.modeling import DNDeformableDETR

model = get_config("projects/dab_deformable_detr/configs/models/dab_deformable_detr_r50.py").model

model._target_ = DNDeformableDETR
model.denoising = get_config("common/denoising.py").group_denoising
