"""DINO ViT-B with a simple feature pyramid of four levels for 12 epochs, from masked autoencoding (MAE).

python tools/train_net.py --config-file projects/dino/configs/dino_vit_base_4scale_12ep.py --num-gpus 8

After detrex's ViTDet, from which the network differs (README.md); otherwise see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_vit_base import model

model.backbone.weights = "mae"
# 250 steps, as ViTDet has; detrex found training without a warm-up unstable.
lr_multiplier.warmup_length = 250 / 90000
train.output_dir = "output/dino_vit_base_4scale_12ep"
