"""DDQ-DETR R50 with four feature levels for 12 epochs of COCO in batches of 16: published box AP 51.4.

detrex-lite train projects/ddq_detr/configs/ddq_detr_r50_4scale_12ep.py --num-gpus 8

The learning rate warms up for 2000 steps, and drops to a tenth after 11 epochs.
"""

from detrex_lite.config import get_config

from .models.ddq_detr_r50 import model

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train = get_config("common/train.py").train

model.backbone.weights = "IMAGENET1K_V1"
lr_multiplier.warmup_length = 2000 / (12 * 7393)  # an epoch has 7,393 steps
lr_multiplier.warmup_factor = 1e-4
optimizer.lr = 2e-4
optimizer.weight_decay = 0.05
optimizer.params.backbone_lr_factor = 0.1
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 0.1
train.max_epochs = 12
train.output_dir = "output/ddq_detr_r50_4scale_12ep"
