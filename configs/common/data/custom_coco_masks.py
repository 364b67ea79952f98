"""Your own images with COCO JSON annotations that all have a `segmentation`; otherwise the same as custom_coco.py."""

from .custom_coco import dataloader, dataset

dataloader.train.dataset.masks = True
dataloader.test.dataset.masks = True
