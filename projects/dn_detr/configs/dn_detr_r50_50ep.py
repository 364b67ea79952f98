"""DN-DETR-R50 for 50 epochs of COCO in batches of 16, the learning rate a tenth after 40.

python tools/train_net.py --config-file projects/dn_detr/configs/dn_detr_r50_50ep.py --num-gpus 8
"""

from detrex_lite.config import get_config

from .models.dn_detr_r50 import model

dataloader = get_config("projects/dab_detr/configs/dab_detr_r50_50ep.py").dataloader
optimizer = get_config("projects/dab_detr/configs/dab_detr_r50_50ep.py").optimizer
lr_multiplier = get_config("projects/dab_detr/configs/dab_detr_r50_50ep.py").lr_multiplier
train = get_config("projects/dab_detr/configs/dab_detr_r50_50ep.py").train

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/dn_detr_r50_50ep"
