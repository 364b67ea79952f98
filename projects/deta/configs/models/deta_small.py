"""A small DETA that trains from scratch on a CPU: ResNet-18, 128 channels, 2 + 3 layers."""

from detrex_lite.config import get_config

from .deta_r50 import model

_small = get_config("common/small_deformable.py").small

model.merge_with(_small)
model.num_queries = 50
model.queries.selection.num_per_level = 100
model.postprocessor.num_detections = 1000
model.postprocessor.suppression.num_detections = _small["postprocessor"]["num_detections"]
