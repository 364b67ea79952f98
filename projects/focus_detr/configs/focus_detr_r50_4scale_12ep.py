"""Focus-DETR R50 for 12 epochs of COCO in batches of 16; learning rate x 0.1 after epoch 11.

detrex-lite train projects/focus_detr/configs/focus_detr_r50_4scale_12ep.py --num-gpus 8

As detrex trains it, except that norms have weight decay and images without objects are kept, as in
projects/dino/configs/dino_r50_4scale_12ep.py.
"""

from detrex_lite.config import get_config

from .models.focus_detr_r50 import model

_dino = get_config("projects/dino/configs/dino_r50_4scale_12ep.py")
dataloader, optimizer, lr_multiplier, train = _dino.dataloader, _dino.optimizer, _dino.lr_multiplier, _dino.train

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/focus_detr_r50_4scale_12ep"
