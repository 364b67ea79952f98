"""Align-DETR R50 with four feature levels for 12 epochs of COCO in batches of 16; learning rate x 0.1 after epoch 11.

detrex-lite train projects/align_detr/configs/align_detr_r50_4scale_12ep.py --num-gpus 8

As detrex trains it, except for the differences that projects/dino/configs/dino_r50_4scale_12ep.py lists. All layers
but the last, and the encoder, have two candidates for each object.
"""

from detrex_lite.config import get_config

from .models.align_detr_r50 import model

_dino = get_config("projects/dino/configs/dino_r50_4scale_12ep.py")
dataloader, optimizer = _dino.dataloader, _dino.optimizer
lr_multiplier, train = _dino.lr_multiplier, _dino.train

model.backbone.weights = "IMAGENET1K_V1"
model.criterion.matcher.candidates = 2
model.criterion.matcher.final_candidates = 1
model.criterion.matcher.ranking.tau = 1.5
train.output_dir = "output/align_detr_r50_4scale_12ep"
