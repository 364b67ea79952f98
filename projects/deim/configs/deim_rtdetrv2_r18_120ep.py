"""DEIM-RT-DETRv2-R18 for 120 epochs of COCO in batches of 16.

detrex-lite train projects/deim/configs/deim_rtdetrv2_r18_120ep.py --num-gpus 4

Mosaics and mixup are in epochs 4 to 64; the last 3 have no strong augmentation.
"""

from detrex_lite.config import get_config

from .models.deim_rtdetrv2_r18 import model

_recipe = get_config("common/realtime.py")
dataloader = get_config("common/data/coco_realtime_mosaic.py").dataloader
optimizer, train = _recipe.optimizer, _recipe.train
lr_multiplier = get_config("common/schedule.py").lr_multiplier_flat_cosine

model.backbone.weights = (
    "ResNet18_vd_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage/releases/download/v0.1/
)
dataloader.strong_epochs = [4, 117]
dataloader.mosaic_epochs = [4, 64]
dataloader.train.total_batch_size = 16
optimizer.lr = 2e-4
lr_multiplier.merge_with({"epochs": 120, "flat_epochs": 64, "final_epochs": 3, "warmup_epochs": 2000 / 7393})
train.model_ema.restart.epoch = 117
train.max_epochs = 120
train.output_dir = "output/deim_rtdetrv2_r18_120ep"
