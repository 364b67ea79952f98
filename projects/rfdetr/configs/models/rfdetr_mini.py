"""A small RF-DETR that trains from scratch on a CPU: LW-DETR's small model with class tokens and layer norms."""

from detrex_lite.config import get_config

model = get_config("projects/lwdetr/configs/models/lwdetr_mini.py").model

model.backbone.update(
    global_blocks=[2],
    class_token=True,
    key_bias=True,
    layer_scale=1.0,
    output_norm=True,
    antialias=True,
)
model.neck.norm = "LN"
