"""LW-DETR-medium, fine-tuned on COCO for 60 epochs in batches of 16 after Objects365: published box AP 52.5.

detrex-lite train projects/lwdetr/configs/lwdetr_medium_60ep.py --num-gpus 8 \\
    train.init_checkpoint=LWDETR_medium_30e_objects365.pth
"""

from .lwdetr_small_60ep import dataloader, lr_multiplier, optimizer, train
from .models.lwdetr_medium import model

optimizer.params.lr_factor_func.rate = 0.7
dataloader.train.total_batch_size = 16
train.output_dir = "output/lwdetr_medium_60ep"
