"""DAB-DETR with a Swin-T of windows of 7x7, as detrex trains it."""

from detrex_lite.config import get_config

from .dab_detr_r50 import model

_swin = get_config("common/swin.py")

model.backbone = _swin.swin_tiny_224
model.backbone.out_indices = [3]
model.in_feature = "stage3"
model.in_channels = _swin.channels
model.in_channels.model_name = "${..backbone.model_name}"
model.in_channels.out_indices = "${..backbone.out_indices}"
