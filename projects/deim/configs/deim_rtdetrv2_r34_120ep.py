"""DEIM-RT-DETRv2-R34 for 120 epochs of COCO in batches of 16.

detrex-lite train projects/deim/configs/deim_rtdetrv2_r34_120ep.py --num-gpus 4

Mosaics and mixup are in epochs 4 to 64; the last 3 have no strong augmentation.
"""

from .deim_rtdetrv2_r18_120ep import dataloader, lr_multiplier, optimizer, train
from .models.deim_rtdetrv2_r34 import model

model.backbone.weights = (
    "ResNet34_vd_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage/releases/download/v0.1/
)
# Norms of the backbone have the same learning rate as the rest of the detector.
optimizer.params.lr_factors = {r"^backbone\.": 0.5, r"^backbone\..*\.norm\.": 1.0}
train.output_dir = "output/deim_rtdetrv2_r34_120ep"
