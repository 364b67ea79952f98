"""DETA with a Swin-L of windows of 12x12 and five feature levels."""

from detrex_lite.config import get_config

from .deta_r50 import model

_swin = get_config("common/swin.py")

model.backbone = _swin.swin_tiny_224
model.backbone.model_name = "swin_large_patch4_window12_384"
model.backbone.drop_path_rate = 0.2
model.neck.in_channels = _swin.channels
