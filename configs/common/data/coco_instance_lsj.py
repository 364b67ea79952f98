"""COCO 2017 with masks, as Mask DINO trains: large scale jittering to squares of `dataloader.image_size`.

Squares are filled up with grey, which is part of the image; boxes are those around what a crop leaves of the masks;
images without objects are left out. Evaluation has the sizes of coco_detr.py.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.data import lsj_train_augmentation

from .coco_instance import dataloader

dataloader.image_size = 1024
dataloader.train.mapper.augmentation = L(lsj_train_augmentation)(
    image_size="${dataloader.image_size}", scale_range=(0.1, 2.0), pad=128
)
dataloader.train.mapper.boxes_from_masks = True
dataloader.train.filter_empty = True
