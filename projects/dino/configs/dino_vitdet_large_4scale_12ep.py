"""DINO ViTDet-L with four feature levels for 12 epochs, from masked autoencoding (MAE).

detrex-lite train projects/dino/configs/dino_vitdet_large_4scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_vitdet_base_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_vitdet_large import model

model.backbone.weights = "mae_pretrain_vit_large.pth"  # https://github.com/facebookresearch/mae
train.output_dir = "output/dino_vitdet_large_4scale_12ep"
