"""D-FINE-L for 80 epochs of COCO in batches of 32, the last 8 without strong augmentation and multi-scale.

detrex-lite train projects/dfine/configs/dfine_l_80ep.py --num-gpus 4
"""

from .dfine_s_132ep import dataloader, lr_multiplier, optimizer, train
from .models.dfine_l import model

model.backbone.weights = "PPHGNetV2_B4_stage1.pth"  # https://github.com/Peterande/storage/releases/download/dfinev1.0/
dataloader.strong_epochs = [0, 72]
dataloader.train.multi_scale.sizes.repeat = 4
optimizer.lr = 2.5e-4
optimizer.params.backbone_lr_factor = 0.05
optimizer.weight_decay = 1.25e-4
optimizer.params.weight_decays = None  # biases have weight decay
lr_multiplier.warmup_length = 500 / (80 * 3697)
train.model_ema.restart.epoch = 72
train.max_epochs = 80
train.output_dir = "output/dfine_l_80ep"
