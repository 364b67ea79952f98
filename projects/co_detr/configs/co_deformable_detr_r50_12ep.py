"""Co-Deformable-DETR R50 for 12 epochs of COCO in batches of 16: published box AP 49.5.

detrex-lite train projects/co_detr/configs/co_deformable_detr_r50_12ep.py --num-gpus 8

Sampling offsets have a tenth of the learning rate, like the backbone.
"""

from .co_dino_r50_5scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.co_deformable_detr_r50 import model

model.backbone.weights = "IMAGENET1K_V1"
optimizer.params.lr_factors = {r"\.sampling_offsets\.": 0.1}
train.output_dir = "output/co_deformable_detr_r50_12ep"
