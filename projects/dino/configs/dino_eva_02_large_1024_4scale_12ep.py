"""DINO EVA-02-L for 12 epochs with large scale jittering to 1024x1024, from masked modelling of 38M images.

detrex-lite train projects/dino/configs/dino_eva_02_large_1024_4scale_12ep.py --num-gpus 8

As detrex trains it, except that the backbone has half of its learning rate; otherwise see dino_r50_4scale_12ep.py.
"""

from .dino_eva_02_base_1024_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_eva_02_large_1024 import model

model.backbone.weights = "eva02_L_pt_m38m_p14to16.pt"  # https://github.com/baaivision/EVA
optimizer.params.lr_factor_func.rate = 0.8
train.output_dir = "output/dino_eva_02_large_1024_4scale_12ep"
