"""DEIM-D-FINE-N for 160 epochs of COCO in batches of 128.

detrex-lite train projects/deim/configs/deim_dfine_n_160ep.py --num-gpus 8

Mosaics and mixup are in epochs 4 to 78; the last 12 have no strong augmentation.
"""

from .deim_dfine_s_132ep import dataloader, lr_multiplier, optimizer, train
from .models.deim_dfine_n import model

model.backbone.weights = "PPHGNetV2_B0_stage1.pth"  # https://github.com/Peterande/storage/releases/download/dfinev1.0/
dataloader.strong_epochs = [4, 148]
dataloader.mosaic_epochs = [4, 78]
dataloader.train.multi_scale = None
dataloader.train.total_batch_size = 128
optimizer.lr = 8e-4
optimizer.params.lr_factors = None
optimizer.params.backbone_lr_factor = 0.5
optimizer.params.weight_decays = {r"^backbone\.": 1e-4, r"^(?!backbone\.).*bias": 0.0}
lr_multiplier.merge_with(
    {"epochs": 160, "flat_epochs": 148, "final_epochs": 12, "end_factor": 1.0, "warmup_epochs": 2000 / 925}
)
train.model_ema.restart.epoch = 148
train.max_epochs = 160
train.output_dir = "output/deim_dfine_n_160ep"
