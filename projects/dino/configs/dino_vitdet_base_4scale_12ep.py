"""DINO ViTDet-B with four feature levels for 12 epochs, from masked autoencoding (MAE).

detrex-lite train projects/dino/configs/dino_vitdet_base_4scale_12ep.py --num-gpus 8

As detrex trains it, except for a warm-up of the learning rate; otherwise see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_vitdet_base import model

model.backbone.weights = "mae_pretrain_vit_base.pth"  # https://github.com/facebookresearch/mae
# 250 steps, as in ViTDet; detrex reports that training without a warm-up is unstable.
lr_multiplier.warmup_length = 250 / 90000
train.output_dir = "output/dino_vitdet_base_4scale_12ep"
