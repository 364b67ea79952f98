"""Co-DINO R50 with five feature levels for 12 epochs of COCO in batches of 16: published box AP 52.1.

detrex-lite train projects/co_detr/configs/co_dino_r50_5scale_12ep.py --num-gpus 8

The learning rate drops to a tenth after 11 epochs.
"""

from detrex_lite.config import get_config

from .models.co_dino_r50_5scale import model

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train = get_config("common/train.py").train

model.backbone.weights = "IMAGENET1K_V1"
optimizer.lr = 2e-4
optimizer.params.backbone_lr_factor = 0.1
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 0.1
train.max_epochs = 12
train.output_dir = "output/co_dino_r50_5scale_12ep"
