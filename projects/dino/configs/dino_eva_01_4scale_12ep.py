"""DINO EVA-01 with four feature levels for 12 epochs, from EVA-01 trained on Objects365.

detrex-lite train projects/dino/configs/dino_eva_01_4scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.engine.loop.optim import LayerDecay

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_eva_01 import model

model.backbone.weights = "eva_o365.pth"  # https://github.com/baaivision/EVA
optimizer.params.backbone_lr_factor = 1.0
optimizer.params.lr_factor_func = L(LayerDecay)(rate=0.9, num_layers="${model.backbone.net.depth}")
train.output_dir = "output/dino_eva_01_4scale_12ep"
