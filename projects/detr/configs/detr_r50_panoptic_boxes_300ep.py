"""Boxes of things and stuff by DETR-R50, for 300 epochs of COCO panoptic: the first half of panoptic segmentation.

detrex-lite train projects/detr/configs/detr_r50_panoptic_boxes_300ep.py --num-gpus 8

As the paper's repository trains it, in batches of 16. detr_r50_panoptic_25ep.py is the second half.
"""

from detrex_lite.config import get_config

from .detr_r50_paper_500ep import model, optimizer, train

dataloader = get_config("common/data/coco_panoptic.py").dataloader
lr_multiplier = get_config("common/schedule.py").lr_multiplier_300ep

model.num_classes = 133
dataloader.train.aspect_ratio_grouping = False
train.max_epochs = 300
train.output_dir = "output/detr_r50_panoptic_boxes_300ep"
