"""A small Deformable DETR that trains from scratch on a CPU: ResNet-18, 128 channels, 2 + 3 layers, two stages."""

from detrex_lite.config import get_config

from .deformable_detr_r50 import model

model.merge_with(get_config("common/small_deformable.py").small)
