"""SQR-DAB-DETR-R50 for 50 epochs of COCO in batches of 16; learning rate x 0.1 after epoch 40.

detrex-lite train projects/sqr_detr/configs/sqr_dab_detr_r50_50ep.py --num-gpus 8

As detrex trains it, except that norms have weight decay, images without objects are kept and the decoder does not
attend to padding, as in projects/dab_detr/configs/dab_detr_r50_50ep.py.
"""

from detrex_lite.config import get_config

from .models.sqr_dab_detr_r50 import model

_dab = get_config("projects/dab_detr/configs/dab_detr_r50_50ep.py")
dataloader, optimizer, lr_multiplier, train = _dab.dataloader, _dab.optimizer, _dab.lr_multiplier, _dab.train

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/sqr_dab_detr_r50_50ep"
