"""DINO ViT-L with a simple feature pyramid of four levels for 12 epochs, from masked autoencoding (MAE).

python tools/train_net.py --config-file projects/dino/configs/dino_vit_large_4scale_12ep.py --num-gpus 8

After detrex's ViTDet, from which the network differs (README.md); otherwise see dino_r50_4scale_12ep.py.
"""

from .dino_vit_base_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_vit_large import model

model.backbone.weights = "mae"
lr_multiplier.milestones = [9.6]  # as detrex's
train.output_dir = "output/dino_vit_large_4scale_12ep"
