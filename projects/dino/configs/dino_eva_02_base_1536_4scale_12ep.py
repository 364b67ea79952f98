"""DINO EVA-02-B for 12 epochs with large scale jittering to 1536x1536, from masked modelling of ImageNet-21k.

detrex-lite train projects/dino/configs/dino_eva_02_base_1536_4scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_eva_02_base_1024_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_eva_02_base_1536 import model

model.backbone.weights = "eva02_B_pt_in21k_p14to16.pt"  # https://github.com/baaivision/EVA
train.output_dir = "output/dino_eva_02_base_1536_4scale_12ep"
