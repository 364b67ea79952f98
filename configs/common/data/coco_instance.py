"""COCO 2017 with the masks of its objects, otherwise the same as coco_detr.py."""

from .coco_detr import dataloader

dataloader.train.dataset.masks = True
dataloader.test.dataset.masks = True
