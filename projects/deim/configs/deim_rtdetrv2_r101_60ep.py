"""DEIM-RT-DETRv2-R101 for 60 epochs of COCO in batches of 16.

detrex-lite train projects/deim/configs/deim_rtdetrv2_r101_60ep.py --num-gpus 4

Mosaics and mixup are in epochs 4 to 34; the last 2 have no strong augmentation.
"""

from .deim_rtdetrv2_r18_120ep import dataloader, lr_multiplier, optimizer, train
from .models.deim_rtdetrv2_r101 import model

model.backbone.weights = (
    "ResNet101_vd_ssld_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage/releases/download/v0.1/
)
dataloader.strong_epochs = [4, 58]
dataloader.mosaic_epochs = [4, 34]
lr_multiplier.merge_with({"epochs": 60, "flat_epochs": 34, "final_epochs": 2})
train.model_ema.restart.epoch = 58
train.max_epochs = 60
# Norms of the backbone have the same learning rate as the rest of the detector.
optimizer.params.lr_factors = {r"^backbone\.": 0.01, r"^backbone\..*\.norm\.": 1.0}
train.output_dir = "output/deim_rtdetrv2_r101_60ep"
