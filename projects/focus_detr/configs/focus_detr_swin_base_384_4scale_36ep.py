"""Focus-DETR Swin-B for 36 epochs, from ImageNet-22k at 384x384.

detrex-lite train projects/focus_detr/configs/focus_detr_swin_base_384_4scale_36ep.py --num-gpus 8

As detrex trains it; see focus_detr_r50_4scale_12ep.py.
"""

from .focus_detr_r50_4scale_36ep import dataloader, lr_multiplier, optimizer, train
from .models.focus_detr_swin_base_384 import model

model.backbone.weights = "ms_in22k"
train.output_dir = "output/focus_detr_swin_base_384_4scale_36ep"
