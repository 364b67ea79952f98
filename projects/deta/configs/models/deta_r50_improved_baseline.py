"""The baseline of the paper: DETA with one-to-one matching and without suppression of duplicates."""

from detrex_lite.config import get_config

from .deta_r50 import model

_one_to_one = get_config("projects/deformable_detr/configs/models/deformable_detr_r50.py").model

model.queries.selection = None
model.criterion = _one_to_one.criterion
model.postprocessor = _one_to_one.postprocessor
