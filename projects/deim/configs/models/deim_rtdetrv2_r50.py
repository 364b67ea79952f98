"""DEIM on RT-DETRv2: another classification loss, SiLU as the activation, and a deeper MLP for position embeddings."""

from detrex_lite.config import get_config

model = get_config("projects/rtdetr/configs/models/rtdetrv2_r50.py").model
model.merge_with(get_config("common/deim.py").deim_rtdetrv2)
