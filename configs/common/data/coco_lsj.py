"""COCO 2017 with large scale jittering to squares of `dataloader.image_size`, otherwise the same as coco_detr.py."""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.data import lsj_train_augmentation

dataloader = get_config("common/data/coco_detr.py").dataloader

dataloader.image_size = 1024
dataloader.train.mapper.augmentation = L(lsj_train_augmentation)(image_size="${dataloader.image_size}")
dataloader.test.mapper.augmentation.short_edge_length = "${dataloader.image_size}"
dataloader.test.mapper.augmentation.max_size = "${dataloader.image_size}"
