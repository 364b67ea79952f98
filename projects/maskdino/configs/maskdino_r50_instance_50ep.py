"""Mask DINO R50 for 50 epochs of COCO instances in batches of 16: published mask AP 46.3, box AP 51.7.

detrex-lite train projects/maskdino/configs/maskdino_r50_instance_50ep.py --num-gpus 8

As the paper's repository trains it. The learning rate drops to a tenth after 8/9 of it and to a hundredth after 26/27.
"""

from detrex_lite.config import get_config

from .models.maskdino_r50 import model

dataloader = get_config("common/data/coco_instance_lsj.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_50ep
train = get_config("common/train.py").train

model.backbone.freeze_at = 0
model.backbone.weights = "IMAGENET1K_V1"
optimizer.weight_decay = 0.05
optimizer.params.backbone_lr_factor = 0.1
optimizer.params.weight_decay_norm = 0.0
optimizer.params.weight_decays = {r"(label_embedding|level_embeds|relative_position_bias_table)": 0.0}
lr_multiplier.epochs = 368750
lr_multiplier.milestones = [327778, 355092]
train.amp.enabled = True
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 0.01
train.max_iter = 368750
train.best_metric = "segm/AP"
train.output_dir = "output/maskdino_r50_instance_50ep"
