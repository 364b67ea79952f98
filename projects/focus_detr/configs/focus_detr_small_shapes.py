"""A small Focus-DETR on generated shapes, from scratch, in minutes on a CPU.

detrex-lite train projects/focus_detr/configs/focus_detr_small_shapes.py
"""

from detrex_lite.config import get_config

from .models.focus_detr_small import model

_shapes = get_config("projects/deformable_detr/configs/deformable_detr_small_shapes.py")
dataset, dataloader, optimizer = _shapes.dataset, _shapes.dataloader, _shapes.optimizer
lr_multiplier, train = _shapes.lr_multiplier, _shapes.train

model.num_classes = 3
train.output_dir = "output/focus_detr_small_shapes"
