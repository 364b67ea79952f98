"""RT-DETRv2 R50 for 72 epochs of COCO in batches of 16, as its authors train it: published box AP 53.4.

detrex-lite train projects/rtdetr/configs/rtdetrv2_r50_72ep.py --num-gpus 4
"""

from detrex_lite.config import get_config

from .models.rtdetrv2_r50 import model

dataloader = get_config("common/data/coco_realtime.py").dataloader
lr_multiplier = get_config("common/schedule.py").lr_multiplier_constant
optimizer = get_config("common/realtime.py").optimizer
train = get_config("common/realtime.py").train

model.backbone.weights = "ResNet50_vd_ssld_v2_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage
dataloader.strong_epochs = [0, 71]
lr_multiplier.warmup_length = 2000 / (72 * 7393)  # 2,000 steps
optimizer.params.lr_factors = {r"^backbone\.": 0.1}
train.max_epochs = 72
train.output_dir = "output/rtdetrv2_r50_72ep"
