"""The smallest D-FINE: like D-FINE-S, with 128 channels and without maps of stride 8."""

from .dfine_s import model

model.backbone.out_indices = [2, 3]
model.neck.hidden_dim = 128
model.neck.encoder.layer.ffn.feedforward_dim = 512
model.neck.fusion.expansion = 0.34
model.neck.fusion.num_blocks = 2
model.embed_dim = 128
model.transformer.num_feature_levels = 2
model.transformer.decoder.layer.attn[1].attention.num_points = [6, 6]
model.transformer.decoder.layer.ffn.feedforward_dim = 512
model.transformer.decoder.position_head.hidden_dim = 256
