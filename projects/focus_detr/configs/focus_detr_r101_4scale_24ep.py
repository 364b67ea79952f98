"""Focus-DETR R101 for 24 epochs.

detrex-lite train projects/focus_detr/configs/focus_detr_r101_4scale_24ep.py --num-gpus 8

As detrex trains it; see focus_detr_r50_4scale_24ep.py.
"""

from .focus_detr_r50_4scale_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.depth = 101
train.output_dir = "output/focus_detr_r101_4scale_24ep"
