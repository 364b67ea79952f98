"""Learning rate multipliers as functions of training progress.

Milestones are relative to the length, so each multiplier fits a run of any length; `train.max_iter` or
`train.max_epochs` sets the length.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.engine.loop.schedule import constant, flat_cosine, multi_step, one_cycle

lr_multiplier_500ep = L(multi_step)(epochs=500, milestones=[400], gamma=0.1, warmup_length=0.0)
lr_multiplier_300ep = L(multi_step)(epochs=300, milestones=[200], gamma=0.1, warmup_length=0.0)
lr_multiplier_50ep = L(multi_step)(epochs=50, milestones=[40], gamma=0.1, warmup_length=0.0)
lr_multiplier_36ep = L(multi_step)(epochs=36, milestones=[30], gamma=0.1, warmup_length=0.0)
lr_multiplier_24ep = L(multi_step)(epochs=24, milestones=[20], gamma=0.1, warmup_length=0.0)
lr_multiplier_12ep = L(multi_step)(epochs=12, milestones=[11], gamma=0.1, warmup_length=0.0)

lr_multiplier_one_cycle = L(one_cycle)(warmup_length=0.05, start_factor=0.01, end_factor=0.0)

# Warm-ups of published recipes are given in steps. An epoch of COCO, 118,287 images, has 7,393 steps of 16 images,
# 3,697 of 32 and 925 of 128.
lr_multiplier_constant = L(constant)(warmup_length=0.0, warmup_factor=0.001)
lr_multiplier_flat_cosine = L(flat_cosine)(
    epochs=132, flat_epochs=64, final_epochs=12, end_factor=0.5, warmup_epochs=2000 / 3697
)
