"""A small DETR on generated shapes, from scratch, in minutes on a CPU: what `make demo` trains.

python tools/train_net.py --config-file projects/detr/configs/detr_small_shapes.py
"""

from detrex_lite.config import get_config

from .models.detr_small import model

dataset = get_config("common/data/shapes.py").dataset
dataloader = get_config("common/data/shapes.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_one_cycle
train = get_config("common/train.py").train

model.num_classes = 3
optimizer.lr = 1e-3
train.max_iter = 900
train.eval_period = 300
train.checkpointer.period = 300
train.clip_grad.enabled = True
train.output_dir = "output/detr_small_shapes"
