"""DN-DETR-R50 for 50 epochs of COCO in batches of 16; learning rate x 0.1 after epoch 40.

detrex-lite train projects/dn_detr/configs/dn_detr_r50_50ep.py --num-gpus 8

As detrex trains it, except that norms have weight decay, images without objects are kept and padding is treated
otherwise (models/dn_detr_r50.py), as in the paper's repository. dn_detr_r50_paper_50ep.py is the paper's training.
"""

from detrex_lite.config import get_config

from .models.dn_detr_r50 import model

_dab = get_config("projects/dab_detr/configs/dab_detr_r50_50ep.py")
dataloader, optimizer, lr_multiplier, train = _dab.dataloader, _dab.optimizer, _dab.lr_multiplier, _dab.train

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/dn_detr_r50_50ep"
