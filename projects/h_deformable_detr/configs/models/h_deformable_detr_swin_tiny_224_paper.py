"""H-Deformable DETR with a Swin-T of windows of 7x7 as in the paper's repository."""

from detrex_lite.config import get_config

from .h_deformable_detr_r50_paper import model

_swin = get_config("common/swin.py")

model.backbone = _swin.swin_tiny_224
model.backbone.drop_path_rate = 0.2
model.neck.in_channels = _swin.channels
