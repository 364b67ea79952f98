"""DINO R50 on a folder of your own images; otherwise as dino_r50_custom.py.

detrex-lite train projects/dino/configs/dino_r50_folder.py dataset.root=FOLDER \
    pretrained.detector=dino_r50_4scale_12ep.pth
"""

from detrex_lite.config import get_config

from .dino_r50_custom import dataloader, lr_multiplier, model, optimizer, pretrained, train

dataset = get_config("common/data/folder.py").dataset
_folder = get_config("common/data/folder.py").dataloader
dataloader.train.dataset, dataloader.test.dataset = _folder.train.dataset, _folder.test.dataset
train.output_dir = "output/dino_r50_folder"
