"""DN-DETR with a ResNet-50, as detrex has it."""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import GroupDenoising
from detrex_lite.projects.dn_detr.modeling import DNDETR

model = get_config("projects/dab_detr/configs/models/dab_detr_r50.py").model
model._target_ = DNDETR
del model.num_patterns
model.anchor_centers = "learned"
model.denoising = L(GroupDenoising)(
    num_classes="${..num_classes}",
    embed_dim="${..embed_dim}",
    num_groups=5,
    label_noise_prob=0.2,
    box_noise_scale=0.4,
    max_queries=1000,
    ignore_padding=False,
)
