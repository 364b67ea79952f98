"""DINO ViTDet-B with four feature levels for 50 epochs; learning rate x 0.1 after epoch 40.

detrex-lite train projects/dino/configs/dino_vitdet_base_4scale_50ep.py --num-gpus 8

As detrex trains it, except for a warm-up of the learning rate; otherwise see dino_r50_4scale_12ep.py.
"""

from .dino_vitdet_base_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

lr_multiplier.epochs = 50
lr_multiplier.milestones = [40]
lr_multiplier.warmup_length = 250 / 375000
train.max_epochs = 50
train.output_dir = "output/dino_vitdet_base_4scale_50ep"
