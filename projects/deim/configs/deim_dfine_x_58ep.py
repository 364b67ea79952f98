"""DEIM-D-FINE-X for 58 epochs of COCO in batches of 32.

detrex-lite train projects/deim/configs/deim_dfine_x_58ep.py --num-gpus 4

Mosaics and mixup are in epochs 4 to 29; the last 8 have no strong augmentation.
"""

from .deim_dfine_s_132ep import dataloader, lr_multiplier, optimizer, train
from .models.deim_dfine_x import model

model.backbone.weights = "PPHGNetV2_B5_stage1.pth"  # https://github.com/Peterande/storage/releases/download/dfinev1.0/
dataloader.strong_epochs = [4, 50]
dataloader.mosaic_epochs = [4, 29]
dataloader.train.multi_scale.sizes.repeat = 3
optimizer.lr = 5e-4
optimizer.weight_decay = 1.25e-4
optimizer.params.lr_factors = None
optimizer.params.backbone_lr_factor = 0.01
optimizer.params.weight_decays = {r"^backbone\.": 1.25e-4}  # including its norms
lr_multiplier.merge_with({"epochs": 58, "flat_epochs": 29, "final_epochs": 8})
train.model_ema.restart.epoch = 50
train.model_ema.restart.decay = 0.9998
train.max_epochs = 58
train.output_dir = "output/deim_dfine_x_58ep"
