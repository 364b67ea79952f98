"""DINO-R50 with four feature levels and selective query recollection, for 12 epochs like DINO; no published results.

detrex-lite train projects/sqr_detr/configs/sqr_dino_r50_4scale_12ep.py --num-gpus 8
"""

from detrex_lite.config import get_config

from .models.sqr_dino_r50 import model

_dino = get_config("projects/dino/configs/dino_r50_4scale_12ep.py")
dataloader, optimizer, lr_multiplier, train = _dino.dataloader, _dino.optimizer, _dino.lr_multiplier, _dino.train

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/sqr_dino_r50_4scale_12ep"
