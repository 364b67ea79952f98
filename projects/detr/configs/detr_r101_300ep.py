"""DETR-R101 for 300 epochs of COCO in batches of 64; learning rate x 0.1 after epoch 200.

detrex-lite train projects/detr/configs/detr_r101_300ep.py --num-gpus 8

As detrex trains it; see detr_r50_300ep.py.
"""

from .detr_r50_300ep import dataloader, lr_multiplier, optimizer, train
from .models.detr_r101 import model

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/detr_r101_300ep"
