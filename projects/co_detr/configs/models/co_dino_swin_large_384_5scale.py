"""Co-DINO with a Swin-L of windows of 12x12 and five feature levels."""

from detrex_lite.config import get_config

from .co_dino_r50_5scale import model

_swin = get_config("projects/dino/configs/models/dino_swin_large_384_5scale.py").model

model.backbone = _swin.backbone
model.backbone.drop_path_rate = 0.3
model.neck.in_channels = _swin.neck.in_channels
