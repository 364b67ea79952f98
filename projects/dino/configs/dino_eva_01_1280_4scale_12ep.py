"""DINO EVA-01 for 12 epochs with large scale jittering to 1280x1280, from EVA-01 trained on Objects365.

detrex-lite train projects/dino/configs/dino_eva_01_1280_4scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from detrex_lite.config import get_config

from .dino_eva_01_4scale_12ep import lr_multiplier, optimizer, train
from .models.dino_eva_01_1280 import model

dataloader = get_config("common/data/coco_lsj.py").dataloader
dataloader.image_size = "${model.backbone.square_size}"
model.backbone.weights = "eva_o365.pth"  # https://github.com/baaivision/EVA
train.output_dir = "output/dino_eva_01_1280_4scale_12ep"
