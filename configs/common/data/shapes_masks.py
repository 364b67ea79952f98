"""shapes.py with the masks of the shapes."""

from .shapes import dataloader, dataset

dataloader.train.dataset.masks = True
dataloader.test.dataset.masks = True
