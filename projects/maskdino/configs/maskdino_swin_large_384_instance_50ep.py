"""Mask DINO Swin-L for 50 epochs of COCO instances in batches of 16: published mask AP 52.3, box AP 59.0.

detrex-lite train projects/maskdino/configs/maskdino_swin_large_384_instance_50ep.py --num-gpus 16

As the paper's repository trains it; see maskdino_r50_instance_50ep.py. The backbone comes from ImageNet-22k.
"""

from .maskdino_r50_instance_50ep import dataloader, lr_multiplier, optimizer, train
from .models.maskdino_swin_large_384 import model

model.backbone.weights = "ms_in22k"
train.output_dir = "output/maskdino_swin_large_384_instance_50ep"
