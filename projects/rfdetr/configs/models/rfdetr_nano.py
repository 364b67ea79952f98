"""RF-DETR-nano: LW-DETR with a DINOv2-small, layer norms in the projector and two decoder layers; for 384 x 384 pixels.

All switches of LW-DETR apply. The four maps are the outputs of blocks 3, 6, 9 and 12; the block after each of the first
three attends to the whole image.
"""

from detrex_lite.config import get_config

model = get_config("projects/lwdetr/configs/models/lwdetr_small.py").model

model.backbone.update(
    embed_dim=384,
    depth=12,
    num_heads=6,
    num_windows=2,
    global_blocks=[3, 6, 9],
    out_blocks=[2, 5, 8, 11],
    pretrain_image_size=384,
    class_token=True,
    key_bias=True,
    layer_scale=1.0,
    output_norm=True,
    antialias=True,
)
model.neck.norm = "LN"
model.transformer.decoder.num_layers = 2
