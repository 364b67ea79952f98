"""DINO ViTDet-L with four feature levels for 50 epochs; learning rate x 0.1 after epoch 40.

detrex-lite train projects/dino/configs/dino_vitdet_large_4scale_50ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_vitdet_base_4scale_50ep import dataloader, lr_multiplier, optimizer, train
from .dino_vitdet_large_4scale_12ep import model

train.output_dir = "output/dino_vitdet_large_4scale_50ep"
