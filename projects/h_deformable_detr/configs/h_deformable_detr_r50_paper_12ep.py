"""H-Deformable DETR R50 as the paper's repository trains it, for 12 epochs in batches of 16: published box AP 48.7.

detrex-lite train projects/h_deformable_detr/configs/h_deformable_detr_r50_paper_12ep.py --num-gpus 8

Differences from h_deformable_detr_r50_two_stage_12ep.py:

- the model is models/h_deformable_detr_r50_paper.py
- the learning rate is 2e-4; sampling offsets also have a tenth of it
- batches mix landscape and portrait images
"""

from .h_deformable_detr_r50_two_stage_12ep import dataloader, lr_multiplier, optimizer, train
from .models.h_deformable_detr_r50_paper import model

model.backbone.weights = "IMAGENET1K_V1"
dataloader.train.aspect_ratio_grouping = False
optimizer.lr = 2e-4
optimizer.params.lr_factors = {r"\.sampling_offsets\.": 0.1}
train.output_dir = "output/h_deformable_detr_r50_paper_12ep"
