"""Your own images with COCO JSON annotations, and the augmentation of coco_realtime_mosaic.py.

Fill in `dataset` as in custom_coco.py.
`dataloader.train.mapper.augmentation.mosaic=null dataloader.train.mixup=null` disable mosaics and mixup.
"""

from .coco_realtime_mosaic import dataloader
from .custom_coco import dataloader as _custom
from .custom_coco import dataset

dataloader.train.dataset = _custom.train.dataset
dataloader.test.dataset = _custom.test.dataset
