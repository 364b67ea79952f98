"""LW-DETR-small, fine-tuned on COCO for 60 epochs in batches of 32 after Objects365: published box AP 48.0.

detrex-lite train projects/lwdetr/configs/lwdetr_small_60ep.py --num-gpus 8 \\
    train.init_checkpoint=LWDETR_small_30e_objects365.pth
"""

from .lwdetr_tiny_60ep import dataloader, lr_multiplier, optimizer, train
from .models.lwdetr_small import model

train.output_dir = "output/lwdetr_small_60ep"
