"""Relation-DETR Swin-L for 24 epochs, from ImageNet-22k; learning rate x 0.1 after epoch 20.

detrex-lite train projects/relation_detr/configs/relation_detr_swin_large_24ep.py --num-gpus 8
"""

from .relation_detr_r50_24ep import dataloader, lr_multiplier, optimizer, train
from .relation_detr_swin_large_12ep import model

train.output_dir = "output/relation_detr_swin_large_24ep"
