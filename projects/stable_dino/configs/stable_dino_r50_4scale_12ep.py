"""Stable-DINO R50 with four feature levels for 12 epochs of COCO in batches of 16; learning rate x 0.1 after epoch 11.

detrex-lite train projects/stable_dino/configs/stable_dino_r50_4scale_12ep.py --num-gpus 8

As the paper's repository trains it, except for the differences that projects/dino/configs/dino_r50_4scale_12ep.py
lists.
"""

from detrex_lite.config import get_config

from .models.stable_dino_r50 import model

_dino = get_config("projects/dino/configs/dino_r50_4scale_12ep.py")
dataloader, optimizer = _dino.dataloader, _dino.optimizer
lr_multiplier, train = _dino.lr_multiplier, _dino.train

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/stable_dino_r50_4scale_12ep"
