"""Drawn shapes of 3 classes on small images, generated in `dataset.root` if this folder does not have them yet."""

from torchvision.transforms import v2

from detrex_lite.config import LazyCall as L
from detrex_lite.data import load_shapes

from .coco_detr import dataloader

dataset = {"root": "output/shapes"}

dataloader.train.dataset = L(load_shapes)(root="${dataset.root}", split="train")
dataloader.train.mapper.augmentation = L(v2.RandomHorizontalFlip)(p=0.5)
dataloader.train.total_batch_size = 32
dataloader.train.num_workers = 1

dataloader.test.dataset = L(load_shapes)(root="${dataset.root}", split="val")
dataloader.test.mapper.augmentation = None
dataloader.test.batch_size = 32
dataloader.test.num_workers = 1
