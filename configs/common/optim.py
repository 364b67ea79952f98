"""Optimizers. `params.model` is set when the model has been built."""

from detrex_lite.config import LazyCall as L
from detrex_lite.engine.loop.optim import adamw, get_param_groups

# DETR's settings (https://github.com/facebookresearch/detr, main.py). `optimizer.params.backbone_lr_factor=0.1` lowers
# the learning rate of the backbone, `lr_factors` those of other modules; `weight_decays` sets other weight decays.
AdamW = L(adamw)(
    params=L(get_param_groups)(
        base_lr="${..lr}",
        backbone_lr_factor=1.0,
        weight_decay_norm=None,
        lr_factors=None,
        weight_decays=None,
        lr_factor_func=None,
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)
