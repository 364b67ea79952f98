"""DINO R50 with four feature levels for 36 epochs; learning rate x 0.1 after epoch 30.

detrex-lite train projects/dino/configs/dino_r50_4scale_36ep.py --num-gpus 8

The model is detrex's, which has no training of this length; see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

lr_multiplier.epochs = 36
lr_multiplier.milestones = [30]
train.max_epochs = 36
train.output_dir = "output/dino_r50_4scale_36ep"
