"""DETA R50 for 24 epochs; learning rate x 0.1 after epoch 20: published box AP 51.1.

detrex-lite train projects/deta/configs/deta_r50_24ep.py --num-gpus 8

The model is detrex's, and the schedule is that of the paper's repository.
"""

from detrex_lite.config import get_config

from .deta_r50_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_24ep
train.max_epochs = 24
train.output_dir = "output/deta_r50_24ep"
