"""COCO 2017 with masks, as Mask DINO trains: large scale jittering to squares of `dataloader.image_size`.

Squares are padded with grey, and this padding is part of the image. Boxes are computed from the cropped masks. Images
without objects are dropped. Evaluation uses the sizes of coco_detr.py.
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
