"""A small RT-DETRv2 on generated shapes, from scratch, in minutes on a CPU.

detrex-lite train projects/rtdetr/configs/rtdetr_small_shapes.py
"""

from detrex_lite.config import get_config

from .models.rtdetrv2_small import model

_shapes = get_config("projects/deformable_detr/configs/deformable_detr_small_shapes.py")
dataset, dataloader, optimizer = _shapes.dataset, _shapes.dataloader, _shapes.optimizer
lr_multiplier, train = _shapes.lr_multiplier, _shapes.train

model.num_classes = 3
train.max_iter = 700
train.eval_period = train.checkpointer.period = 350
train.output_dir = "output/rtdetr_small_shapes"
