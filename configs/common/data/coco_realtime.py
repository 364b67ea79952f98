"""COCO 2017 at `dataloader.image_size` squared, with the augmentation of RT-DETR and D-FINE.

Photometric distortion, zooming out and IoU crops are applied in epochs `dataloader.strong_epochs` = [first, end]; up to
this end, batches have many sizes. coco_realtime_mosaic.py adds mosaics and mixup. See docs/recipes.md.
"""

from torchvision.transforms import v2

from detrex_lite.config import LazyCall as L
from detrex_lite.data import (
    InEpochs,
    MultiScale,
    RandomIoUCrop,
    RandomPhotometricDistort,
    RealtimeAugmentation,
    realtime_test_augmentation,
    scales_around,
)

from .coco_detr import dataloader

dataloader.image_size = 640
dataloader.strong_epochs = [0, None]

dataloader.train.mapper.augmentation = L(RealtimeAugmentation)(
    size="${dataloader.image_size}",
    mosaic=None,
    photometric_distort=L(InEpochs)(
        transform=L(RandomPhotometricDistort)(p=0.5), epochs="${dataloader.strong_epochs}", probability=1.0
    ),
    zoom_out=L(InEpochs)(
        transform=L(v2.RandomZoomOut)(fill=0, side_range=(1.0, 4.0), p=0.5),
        epochs="${dataloader.strong_epochs}",
        probability=1.0,
    ),
    iou_crop=L(InEpochs)(transform=L(RandomIoUCrop)(), epochs="${dataloader.strong_epochs}", probability=0.8),
    flip_probability=0.5,
)
dataloader.train.mixup = None
dataloader.train.multi_scale = L(MultiScale)(
    sizes=L(scales_around)(base="${dataloader.image_size}", repeat=3),
    epochs=[0, "${dataloader.strong_epochs[1]}"],
    interpolation="nearest",
)
dataloader.train.aspect_ratio_grouping = False
dataloader.test.mapper.augmentation = L(realtime_test_augmentation)(size="${dataloader.image_size}")
dataloader.test.batch_size = 8
