"""DEIM on D-FINE-L: another classification loss, and SiLU as the activation."""

from detrex_lite.config import get_config

model = get_config("projects/dfine/configs/models/dfine_l.py").model
model.merge_with(get_config("common/deim.py").deim_dfine)
