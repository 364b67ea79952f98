"""LW-DETR-large: two feature levels, of strides 8 and 32, and a wider decoder that samples more points."""

from .lwdetr_medium import model

model.backbone.drop_path_rate = 0.1
model.neck.scales = [2.0, 0.5]
model.embed_dim = 384
model.transformer.num_feature_levels = 2
model.transformer.decoder.layer.attn[0].num_heads = 12
model.transformer.decoder.layer.attn[1].num_heads = 24
model.transformer.decoder.layer.attn[1].num_points = 4
