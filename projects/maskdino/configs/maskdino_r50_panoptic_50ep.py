"""Mask DINO R50 for 50 epochs of COCO panoptic in batches of 16: published PQ 53.0.

detrex-lite train projects/maskdino/configs/maskdino_r50_panoptic_50ep.py --num-gpus 8

As the paper's repository trains it; see maskdino_r50_instance_50ep.py.
"""

from detrex_lite.config import get_config

from .maskdino_r50_instance_50ep import lr_multiplier, optimizer, train
from .models.maskdino_r50_panoptic import model

dataloader = get_config("common/data/coco_panoptic_lsj.py").dataloader

model.backbone.freeze_at = 0
model.backbone.weights = "IMAGENET1K_V1"
train.best_metric = "panoptic_seg/PQ"
train.output_dir = "output/maskdino_r50_panoptic_50ep"
