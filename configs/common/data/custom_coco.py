"""Your own images with COCO JSON annotations, and DETR's augmentation.

Fill in `dataset`, in a config (`dataset.train_images = "..."`) or on the command line
(`dataset.train_images=...`).
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.data import load_coco

from .coco_detr import dataloader

dataset = {
    "train_annotations": "???",  # a COCO JSON file
    "train_images": "???",  # the folder to which its file names are relative
    "val_annotations": "???",
    "val_images": "???",
}

dataloader.train.dataset = L(load_coco)(
    annotations="${dataset.train_annotations}", image_root="${dataset.train_images}"
)
dataloader.test.dataset = L(load_coco)(annotations="${dataset.val_annotations}", image_root="${dataset.val_images}")
