"""LW-DETR-large, fine-tuned on COCO for 60 epochs in batches of 16 after Objects365: published box AP 56.1.

detrex-lite train projects/lwdetr/configs/lwdetr_large_60ep.py --num-gpus 8 \\
    train.init_checkpoint=LWDETR_large_30e_objects365.pth
"""

from .lwdetr_medium_60ep import dataloader, lr_multiplier, optimizer, train
from .models.lwdetr_large import model

optimizer.params.lr_factors = {r"^backbone\.": 1.5 * 0.5**2, r"^(transformer\.decoder|heads\.norm)\.": 0.5}
train.output_dir = "output/lwdetr_large_60ep"
