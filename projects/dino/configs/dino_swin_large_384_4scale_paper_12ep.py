"""DINO Swin-L with four feature levels as the paper's repository trains it, for 12 epochs: published box AP 56.8.

detrex-lite train projects/dino/configs/dino_swin_large_384_4scale_paper_12ep.py --num-gpus 8

Differences from dino_swin_large_384_4scale_12ep.py:

- the model is models/dino_swin_large_384_paper.py
- the backbone comes from ImageNet-22k, without fine-tuning on -1k
- batches mix landscape and portrait images
"""

from .dino_r50_4scale_paper_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_swin_large_384_paper import model

model.backbone.weights = "ms_in22k"
train.output_dir = "output/dino_swin_large_384_4scale_paper_12ep"
