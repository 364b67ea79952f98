"""A small Focus-DETR that trains from scratch on a CPU: ResNet-18, 128 channels, 2 + 3 layers."""

from detrex_lite.config import get_config

from .focus_detr_r50 import model

model.merge_with(get_config("common/small_deformable.py").small)
model.transformer.encoder.foreground.strides = [8, 16, 32]
model.transformer.encoder.layer_shares = [1.0, 0.6]
model.denoising.num_pairs = 20
