"""DEIM on RT-DETRv2 scaled down, with three decoder layers in training, too."""

from detrex_lite.config import get_config

model = get_config("projects/rtdetr/configs/models/rtdetrv2_r50_m.py").model
model.merge_with(get_config("common/deim.py").deim_rtdetrv2)

model.transformer.decoder.num_layers = 3
model.transformer.decoder.num_eval_layers = None
