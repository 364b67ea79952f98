"""RT-DETR R101 for 72 epochs, as its authors train it, norms with weight decay: published box AP 54.3.

detrex-lite train projects/rtdetr/configs/rtdetr_r101_72ep.py --num-gpus 4
"""

from .models.rtdetr_r101 import model
from .rtdetr_r50_72ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "ResNet101_vd_ssld_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage
optimizer.params.lr_factors = {r"^backbone\.": 0.01}
optimizer.params.weight_decay_norm = None
optimizer.params.weight_decays = None
train.output_dir = "output/rtdetr_r101_72ep"
