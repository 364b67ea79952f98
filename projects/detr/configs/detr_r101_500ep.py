"""DETR-R101 for 500 epochs with the drop after 400, as for the published weights: box AP 43.5 on COCO val2017.

detrex-lite train projects/detr/configs/detr_r101_500ep.py --num-gpus 8

detrex's model with the schedule of the published weights; see detr_r50_300ep.py.
"""

from detrex_lite.config import get_config

from .detr_r101_300ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_500ep
train.max_epochs = 500
train.output_dir = "output/detr_r101_500ep"
