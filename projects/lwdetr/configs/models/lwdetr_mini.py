"""A small LW-DETR that trains from scratch on a CPU: four blocks of 96 channels, 8 x 8 patches, 25 queries."""

from .lwdetr_tiny import model

model.backbone.update(
    embed_dim=96,
    depth=4,
    num_heads=4,
    num_windows=2,
    global_blocks=[1, 3],
    out_blocks=[1, 3],
    patch_size=8,
    pretrain_image_size=64,
)
model.neck.num_blocks = 1
model.embed_dim = 128
model.transformer.decoder.layer.attn[0].num_heads = 4
model.transformer.decoder.layer.attn[1].num_heads = 4
model.transformer.decoder.layer.attn[1].num_points = 4
model.transformer.decoder.layer.ffn.feedforward_dim = 512
model.queries.layout.num_groups = 5
model.num_queries = 25
model.postprocessor.num_detections = 50
