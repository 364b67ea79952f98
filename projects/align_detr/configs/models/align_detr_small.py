"""A small Align-DETR that trains from scratch on a CPU: ResNet-18, 128 channels, 2 + 3 layers, two candidates."""

from detrex_lite.config import get_config

from .align_detr_r50 import model

model.merge_with(get_config("common/small_deformable.py").small)
model.denoising.num_pairs = 20
model.criterion.matcher.candidates = 2
model.criterion.matcher.ranking.tau = 1.5
model.criterion.weights.loss_class = 1.0
