"""DDQ-DETR R50 with five feature levels for 12 epochs: published box AP 52.1.

detrex-lite train projects/ddq_detr/configs/ddq_detr_r50_5scale_12ep.py --num-gpus 8
"""

from .ddq_detr_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.ddq_detr_r50_5scale import model

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/ddq_detr_r50_5scale_12ep"
