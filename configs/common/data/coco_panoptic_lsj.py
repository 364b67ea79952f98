"""COCO 2017 panoptic with the training images of coco_instance_lsj.py."""

from .coco_instance_lsj import dataloader
from .coco_panoptic import dataloader as _panoptic

dataloader.train.dataset = _panoptic.train.dataset
dataloader.test.dataset = _panoptic.test.dataset
dataloader.evaluator = _panoptic.evaluator
dataloader.evaluator = _panoptic.evaluator
