"""A small DETR that trains from scratch on a CPU: ResNet-18 up to stride 8, 128 channels, 2 + 3 layers."""

from .detr_r50 import model

model.backbone.depth = 18
model.backbone.out_features = ["res3"]
model.backbone.norm = "BN"  # nothing is pre-trained: statistics must be learned
model.backbone.freeze_at = 0
model.in_feature = "res3"
model.in_channels = 128
model.embed_dim = 128
model.position_embedding.num_pos_feats = 64
model.transformer.encoder.num_layers = 2
model.transformer.encoder.feedforward_dim = 512
model.transformer.encoder.dropout = 0.0
model.transformer.decoder.num_layers = 3
model.num_queries = 20
