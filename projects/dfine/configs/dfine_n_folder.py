"""D-FINE-N on a folder of your own images; otherwise as dfine_n_custom.py.

detrex-lite train projects/dfine/configs/dfine_n_folder.py dataset.root=FOLDER pretrained.detector=dfine_n_coco.pth
"""

from detrex_lite.config import get_config

from .dfine_n_custom import dataloader, lr_multiplier, model, optimizer, pretrained, published, train

dataset = get_config("common/data/folder.py").dataset
_folder = get_config("common/data/folder.py").dataloader
dataloader.train.dataset, dataloader.test.dataset = _folder.train.dataset, _folder.test.dataset
train.output_dir = "output/dfine_n_folder"
