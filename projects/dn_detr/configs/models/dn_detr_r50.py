"""DN-DETR with a ResNet-50, as detrex trains it, except for padding, which is treated as in the paper's repository.

`model.transformer.mask_memory_padding=False` and `model.denoising.padding_in_loss=True` reproduce detrex. Patterns
(`model.num_patterns`), which detrex's DN-DETR does not have, are initialised as in the paper's repository.
"""

from detrex_lite.config import get_config
from detrex_lite.projects.dn_detr.modeling import DNDETR

model = get_config("projects/dab_detr/configs/models/dab_detr_r50.py").model
model._target_ = DNDETR
model.queries.centers = "learned"
model.queries.normal_init = True
model.denoising = get_config("common/denoising.py").group_denoising
