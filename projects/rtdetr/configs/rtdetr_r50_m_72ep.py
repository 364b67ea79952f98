"""RT-DETR R50-m for 72 epochs, as its authors train it: published box AP 51.3.

detrex-lite train projects/rtdetr/configs/rtdetr_r50_m_72ep.py --num-gpus 4
"""

from .models.rtdetr_r50_m import model
from .rtdetr_r50_72ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "ResNet50_vd_ssld_v2_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage
train.output_dir = "output/rtdetr_r50_m_72ep"
