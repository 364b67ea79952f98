"""Group DETR on Conditional DETR with a ResNet-50: eleven groups of queries in training, one in evaluation.

Every detector supports groups by this key, for example DINO: `model.queries.layout.num_groups=11`.
"""

from detrex_lite.config import get_config

model = get_config("projects/conditional_detr/configs/models/conditional_detr_r50.py").model

model.queries.layout.num_groups = 11
model.transformer.mask_memory_padding = True
