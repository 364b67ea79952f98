"""DINO EVA-02-B for 12 epochs with large scale jittering to 1024x1024, from masked modelling of ImageNet-21k.

detrex-lite train projects/dino/configs/dino_eva_02_base_1024_4scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from detrex_lite.config import get_config

from .dino_eva_01_4scale_12ep import lr_multiplier, optimizer, train
from .models.dino_eva_02_base_1024 import model

dataloader = get_config("common/data/coco_lsj.py").dataloader
dataloader.image_size = "${model.backbone.square_size}"
model.backbone.weights = "eva02_B_pt_in21k_p14to16.pt"  # https://github.com/baaivision/EVA
optimizer.params.lr_factor_func.rate = 0.7
train.output_dir = "output/dino_eva_02_base_1024_4scale_12ep"
