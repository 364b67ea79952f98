"""Deformable DETR R50 for 50 epochs of COCO in batches of 32; learning rate x 0.1 after epoch 40.

detrex-lite train projects/deformable_detr/configs/deformable_detr_r50_50ep.py --num-gpus 8

The model is detrex's, and the schedule is that of the paper's repository; as there, norms have weight decay and images
without objects are kept. deformable_detr_r50_paper_50ep.py is the paper's training.
"""

from detrex_lite.config import get_config

from .models.deformable_detr_r50 import model

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_50ep
train = get_config("common/train.py").train

model.backbone.weights = "IMAGENET1K_V1"
model.criterion.weights.loss_class = 2.0
dataloader.train.total_batch_size = 32
optimizer.lr = 2e-4
optimizer.params.backbone_lr_factor = 0.1
optimizer.params.lr_factors = {r"\.(sampling_offsets|reference_points)\.": 0.1}
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 0.1
train.max_epochs = 50
train.output_dir = "output/deformable_detr_r50_50ep"
