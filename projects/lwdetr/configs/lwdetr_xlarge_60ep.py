"""LW-DETR-xlarge, fine-tuned on COCO for 60 epochs in batches of 16 after Objects365: published box AP 58.3.

detrex-lite train projects/lwdetr/configs/lwdetr_xlarge_60ep.py --num-gpus 8 \\
    train.init_checkpoint=LWDETR_xlarge_30e_objects365.pth
"""

from .lwdetr_large_60ep import dataloader, lr_multiplier, optimizer, train
from .models.lwdetr_xlarge import model

optimizer.weight_decay = 1e-3
optimizer.params.lr_factor_func.rate = 0.75
train.output_dir = "output/lwdetr_xlarge_60ep"
