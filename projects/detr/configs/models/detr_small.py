"""A small DETR that trains from scratch on a CPU: ResNet-18 up to stride 8, 128 channels, 2 + 3 pre-norm layers.

Besides its size, it differs from detr_r50.py in what helps short trainings on small feature maps: batch norm learns its
statistics, layers normalise first, and positions are measured in cells, with wavelengths of the size of the map.
"""

from .detr_r50 import model

model.backbone.depth = 18
model.backbone.out_features = ["res3"]
model.backbone.norm = "BN"
model.backbone.freeze_at = 0
model.in_feature = "res3"
model.embed_dim = 128
model.position_embedding.num_pos_feats = 64
model.position_embedding.temperature = 20
model.position_embedding.normalize = False
model.transformer.encoder.num_layers = 2
model.transformer.encoder.layer.attn.num_heads = 4
model.transformer.encoder.layer.attn.attn_drop = 0.0
model.transformer.encoder.layer.ffn.feedforward_dim = 512
model.transformer.encoder.layer.operation_order = ["norm", "self_attn", "norm", "ffn"]
model.transformer.decoder.layer.operation_order = ["norm", "self_attn", "norm", "cross_attn", "norm", "ffn"]
model.transformer.decoder.num_layers = 3
model.num_queries = 25
# With the paper's weights (1, 5 and 2), short trainings learn boxes long before classes.
model.criterion.weights.loss_class = 2.5
model.criterion.matcher.costs.label.weight = 2.0
