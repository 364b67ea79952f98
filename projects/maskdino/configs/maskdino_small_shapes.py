"""A small Mask DINO on generated shapes with their masks, from scratch, in minutes on a CPU.

detrex-lite train projects/maskdino/configs/maskdino_small_shapes.py
"""

from detrex_lite.config import get_config

from .models.maskdino_small import model

_shapes = get_config("projects/deformable_detr/configs/deformable_detr_small_shapes.py")
dataset, dataloader, optimizer = _shapes.dataset, _shapes.dataloader, _shapes.optimizer
lr_multiplier, train = _shapes.lr_multiplier, _shapes.train

dataloader.train.dataset.masks = dataloader.test.dataset.masks = True
model.num_classes = 3
train.best_metric = "segm/AP"
train.output_dir = "output/maskdino_small_shapes"
