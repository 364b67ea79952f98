"""A small Stable-DINO on generated shapes, from scratch, in minutes on a CPU.

detrex-lite train projects/stable_dino/configs/stable_dino_small_shapes.py
"""

from detrex_lite.config import get_config

from .models.stable_dino_small import model

_shapes = get_config("projects/dino/configs/dino_small_shapes.py")
dataset, dataloader, optimizer = _shapes.dataset, _shapes.dataloader, _shapes.optimizer
lr_multiplier, train = _shapes.lr_multiplier, _shapes.train

model.num_classes = 3
train.output_dir = "output/stable_dino_small_shapes"
