"""RT-DETR R50 for 72 epochs of COCO in batches of 16, as its authors train it: published box AP 53.1.

detrex-lite train projects/rtdetr/configs/rtdetr_r50_72ep.py --num-gpus 4
"""

from detrex_lite.config import get_config

from .models.rtdetr_r50 import model

dataloader = get_config("common/data/coco_realtime.py").dataloader
lr_multiplier = get_config("common/schedule.py").lr_multiplier_constant
optimizer = get_config("common/realtime.py").optimizer
train = get_config("common/realtime.py").train

model.backbone.weights = "ResNet50_vd_ssld_v2_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage
optimizer.params.lr_factors = {r"^backbone\.": 0.1}
optimizer.params.weight_decays = {r"^(?!backbone\.).*bias": 0.0}
train.amp.enabled = False
train.max_epochs = 72
train.output_dir = "output/rtdetr_r50_72ep"
