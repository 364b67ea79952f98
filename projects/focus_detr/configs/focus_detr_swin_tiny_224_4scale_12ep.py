"""Focus-DETR Swin-T for 12 epochs, from ImageNet-1k at 224x224.

detrex-lite train projects/focus_detr/configs/focus_detr_swin_tiny_224_4scale_12ep.py --num-gpus 8

As detrex trains it; see focus_detr_r50_4scale_12ep.py.
"""

from .focus_detr_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.focus_detr_swin_tiny_224 import model

model.backbone.weights = "ms_in1k"
train.output_dir = "output/focus_detr_swin_tiny_224_4scale_12ep"
