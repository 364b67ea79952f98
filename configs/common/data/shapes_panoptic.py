"""shapes.py with masks, in which the background is an object of a fourth class, which is stuff."""

from detrex_lite.config import LazyCall as L
from detrex_lite.data import load_shapes_panoptic

from .shapes import dataloader, dataset

dataloader.train.dataset = L(load_shapes_panoptic)(root="${dataset.root}", split="train")
dataloader.test.dataset = L(load_shapes_panoptic)(root="${dataset.root}", split="val")
