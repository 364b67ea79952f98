"""A small Deformable DETR that trains from scratch on a CPU: ResNet-18, 128 channels, 2 + 3 layers, two stages."""

from .deformable_detr_r50 import model

model.backbone.depth = 18
model.backbone.out_features = ["res3", "res4"]
model.backbone.norm = "BN"
model.backbone.freeze_at = 0
model.embed_dim = 128
model.position_embedding.num_pos_feats = 64
model.transformer.num_feature_levels = 3
model.transformer.encoder.num_layers = 2
model.transformer.encoder.num_heads = 4
model.transformer.encoder.feedforward_dim = 512
model.transformer.encoder.dropout = 0.0
model.transformer.decoder.num_layers = 3
model.num_queries = 25
model.with_box_refine = True
model.as_two_stage = True
model.criterion.weights.loss_class = 2.0
model.postprocessor.num_detections = 50
