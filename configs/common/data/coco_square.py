"""COCO 2017 as in LW-DETR: squares of many sizes in training, `dataloader.image_size` squared in evaluation."""

from detrex_lite.config import LazyCall as L
from detrex_lite.data import realtime_test_augmentation, square_train_augmentation

from .coco_detr import dataloader

dataloader.image_size = 640

dataloader.train.mapper.augmentation = L(square_train_augmentation)(
    sides=(448, 512, 576, 640, 704, 768, 832, 896), crop_probability=0.5, flip_probability=0.5
)
dataloader.train.aspect_ratio_grouping = False
dataloader.test.mapper.augmentation = L(realtime_test_augmentation)(size="${dataloader.image_size}")
dataloader.test.batch_size = 8
