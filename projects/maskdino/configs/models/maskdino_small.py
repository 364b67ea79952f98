"""A small Mask DINO that trains from scratch on a CPU: ResNet-18, 128 channels, 2 + 3 layers."""

from detrex_lite.config import get_config

from .maskdino_r50 import model

model.merge_with(get_config("common/small_deformable.py").small)
model.backbone.out_features = ["res2", "res3", "res4"]
model.neck.in_channels.out_features = ["res3", "res4"]
model.denoising.num_positives = 20
model.num_mask_points = 784
