"""Your own images with COCO JSON annotations that have a `segmentation` each; otherwise as custom_coco.py."""

from .custom_coco import dataloader, dataset

dataloader.train.dataset.masks = True
dataloader.test.dataset.masks = True
