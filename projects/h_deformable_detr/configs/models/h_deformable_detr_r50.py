"""H-Deformable DETR with a ResNet-50, as detrex trains it: differences from Deformable DETR in two stages.

`model.num_queries_one2many=0` removes the one-to-many branch.
"""

from detrex_lite.config import get_config

model = get_config("projects/deformable_detr/configs/models/deformable_detr_r50.py").model

model.with_box_refine = True
model.as_two_stage = True
model.num_queries_one2many = 1500
model.queries.mixed_selection = "${..as_two_stage}"
model.heads.look_forward_twice = True
model.transformer.encoder.layer.ffn.feedforward_dim = 2048
model.transformer.encoder.layer.attn.dropout = 0.0
model.criterion.weights.loss_class = 2.0
