"""DINO EVA-02-L for 12 epochs with large scale jittering to 1536x1536, from EVA-02-L trained on Objects365.

detrex-lite train projects/dino/configs/dino_eva_02_large_1536_4scale_12ep.py --num-gpus 8

As detrex trains it, except that the backbone has half of its learning rate; otherwise see dino_r50_4scale_12ep.py.
"""

from .dino_eva_02_large_1024_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_eva_02_large_1536 import model

model.backbone.weights = "eva02_L_m38m_to_o365.pth"  # https://github.com/baaivision/EVA
train.output_dir = "output/dino_eva_02_large_1536_4scale_12ep"
