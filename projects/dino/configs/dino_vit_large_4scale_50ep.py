"""DINO ViT-L with a simple feature pyramid of four levels for 50 epochs, the learning rate a tenth after 40.

python tools/train_net.py --config-file projects/dino/configs/dino_vit_large_4scale_50ep.py --num-gpus 8

After detrex's ViTDet, from which the network differs (README.md); otherwise see dino_r50_4scale_12ep.py.
"""

from .dino_vit_base_4scale_50ep import dataloader, lr_multiplier, optimizer, train
from .dino_vit_large_4scale_12ep import model

train.output_dir = "output/dino_vit_large_4scale_50ep"
