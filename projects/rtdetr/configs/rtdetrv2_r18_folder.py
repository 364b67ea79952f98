"""RT-DETRv2-S on a folder of your own images; otherwise as rtdetrv2_r18_custom.py.

detrex-lite train projects/rtdetr/configs/rtdetrv2_r18_folder.py dataset.root=FOLDER \
    pretrained.detector=rtdetrv2_r18vd_120e_coco.pth
"""

from detrex_lite.config import get_config

from .rtdetrv2_r18_custom import dataloader, lr_multiplier, model, optimizer, pretrained, published, train

dataset = get_config("common/data/folder.py").dataset
_folder = get_config("common/data/folder.py").dataloader
dataloader.train.dataset, dataloader.test.dataset = _folder.train.dataset, _folder.test.dataset
train.output_dir = "output/rtdetrv2_r18_folder"
