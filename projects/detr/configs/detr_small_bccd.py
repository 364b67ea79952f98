"""The small DETR on photographs of blood cells (github.com/Shenggan/BCCD_Dataset), from COCO JSON files.

python tools/train_net.py --config-file projects/detr/configs/detr_small_bccd.py dataset.root=FOLDER
"""

from detrex_lite.config import get_config

from .detr_small_shapes import lr_multiplier, model, optimizer, train

dataset = get_config("common/data/custom_coco.py").dataset | dict(root="???")
dataloader = get_config("common/data/custom_coco.py").dataloader
