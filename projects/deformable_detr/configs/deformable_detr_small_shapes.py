"""A small Deformable DETR on generated shapes, from scratch, in minutes on a CPU.

detrex-lite train projects/deformable_detr/configs/deformable_detr_small_shapes.py
"""

from detrex_lite.config import get_config

from .models.deformable_detr_small import model

dataset = get_config("common/data/shapes.py").dataset
dataloader = get_config("common/data/shapes.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_one_cycle
train = get_config("common/train.py").train

model.num_classes = 3
dataloader.train.total_batch_size = 16
dataloader.train.num_workers = dataloader.test.num_workers = 0  # a worker process costs more than reading images
optimizer.lr = 5e-4
train.max_iter = 900
train.eval_period = 300
train.checkpointer.period = 300
train.output_dir = "output/deformable_detr_small_shapes"
