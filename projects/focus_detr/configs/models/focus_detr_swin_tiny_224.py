"""Focus-DETR with a Swin-T of windows of 7x7."""

from detrex_lite.config import get_config

from .focus_detr_r50 import model

_swin = get_config("common/swin.py")

model.backbone = _swin.swin_tiny_224
model.neck.in_channels = _swin.channels
