"""COCO 2017 panoptic: every segment of things and of stuff is an object with a mask; otherwise as coco_detr.py.

Its 133 classes are the categories in the order of their ids, things first.
"""

from .coco_detr import dataloader

dataloader.train.dataset.name = "coco_2017_train_panoptic"
dataloader.test.dataset.name = "coco_2017_val_panoptic"
