"""Relation-DETR R50 for 12 epochs of COCO in batches of 16; learning rate x 0.1 after epoch 10.

detrex-lite train projects/relation_detr/configs/relation_detr_r50_12ep.py --num-gpus 8
"""

from detrex_lite.config import get_config

from .models.relation_detr_r50 import model

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train = get_config("common/train.py").train

model.backbone.weights = "IMAGENET1K_V2"
optimizer.params.backbone_lr_factor = 0.1
optimizer.params.lr_factors = {r"\.sampling_offsets\.": 0.1}
optimizer.params.weight_decay_norm = 0.0
lr_multiplier.milestones = [10]
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 0.1
train.max_epochs = 12
train.output_dir = "output/relation_detr_r50_12ep"
