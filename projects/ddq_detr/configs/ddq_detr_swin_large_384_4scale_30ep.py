"""DDQ-DETR Swin-L with four feature levels for 30 epochs, from ImageNet-22k: published box AP 58.7.

detrex-lite train projects/ddq_detr/configs/ddq_detr_swin_large_384_4scale_30ep.py --num-gpus 8

The learning rate drops to a tenth after 20 epochs and to a hundredth after 26; the backbone has a twentieth of it.
"""

from .ddq_detr_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.ddq_detr_swin_large_384 import model

model.backbone.weights = "ms_in22k"
lr_multiplier.epochs = 30
lr_multiplier.milestones = [20, 26]
lr_multiplier.warmup_length = 2000 / (30 * 7393)
optimizer.params.backbone_lr_factor = 0.05
train.max_epochs = 30
train.output_dir = "output/ddq_detr_swin_large_384_4scale_30ep"
