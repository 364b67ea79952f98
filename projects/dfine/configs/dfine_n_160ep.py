"""D-FINE-N for 160 epochs of COCO in batches of 128, the last 12 without strong augmentation.

detrex-lite train projects/dfine/configs/dfine_n_160ep.py --num-gpus 8
"""

from .dfine_s_132ep import dataloader, lr_multiplier, optimizer, train
from .models.dfine_n import model

model.backbone.weights = "PPHGNetV2_B0_stage1.pth"  # https://github.com/Peterande/storage/releases/download/dfinev1.0/
dataloader.strong_epochs = [0, 148]
dataloader.train.multi_scale = None
dataloader.train.total_batch_size = 128
optimizer.lr = 8e-4
lr_multiplier.warmup_length = 500 / (160 * 925)
train.model_ema.restart.epoch = 148
train.max_epochs = 160
train.output_dir = "output/dfine_n_160ep"
