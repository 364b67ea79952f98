"""Your own images in a folder, in any layout that `detrex_lite.data.find_dataset` finds, and DETR's augmentation.

Fill in `dataset.root`, in a config (`dataset.root = "..."`) or on the command line (`dataset.root=...`).
`dataset.masks=True` reads masks, too. Any recipe takes these data: its `dataset`, `dataloader.train.dataset` and
`dataloader.test.dataset` are replaced by those of this file.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.data import load_split

from .coco_detr import dataloader

dataset = {
    "root": "???",  # the folder, or its data.yaml, COCO JSON or CSV file
    "val": "val",  # the split that is evaluated: val or test
    "masks": False,  # read polygons and run lengths, which every object must then have
    "layout": None,  # coco, yolo, voc or csv, where the folder has several; None: what is found
    "seed": 0,  # of the split that is drawn where the folder has no validation set
    "val_share": 0.2,  # of the images that are then for validation
}

_found = {key: f"${{dataset.{key}}}" for key in ("root", "seed", "val_share", "layout", "masks")}
dataloader.train.dataset = L(load_split)(split="train", **_found)
dataloader.test.dataset = L(load_split)(split="${dataset.val}", **_found)
