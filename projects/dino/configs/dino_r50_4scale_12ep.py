"""DINO R50 with four feature levels for 12 epochs of COCO in batches of 16; learning rate x 0.1 after epoch 11.

detrex-lite train projects/dino/configs/dino_r50_4scale_12ep.py --num-gpus 8

As detrex trains it, except that norms have weight decay and images without objects are kept, as in the paper's
repository. dino_r50_4scale_paper_12ep.py is the paper's training.
"""

from detrex_lite.config import get_config

from .models.dino_r50 import model

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train = get_config("common/train.py").train

model.backbone.weights = "IMAGENET1K_V1"
optimizer.params.backbone_lr_factor = 0.1
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 0.1
train.max_epochs = 12
train.output_dir = "output/dino_r50_4scale_12ep"
