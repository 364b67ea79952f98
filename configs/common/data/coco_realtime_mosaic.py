"""coco_realtime.py with the mosaics and mixup of DEIM, in epochs `dataloader.mosaic_epochs` = [first, end]."""

from detrex_lite.config import LazyCall as L
from detrex_lite.data import InEpochs, Mixup, Mosaic

from .coco_realtime import dataloader

dataloader.mosaic_epochs = "${dataloader.strong_epochs}"

dataloader.train.mapper.augmentation.mosaic = L(InEpochs)(
    transform=L(Mosaic)(size=320, max_size=None, degrees=10.0, translate=0.1, scale=(0.5, 1.5)),
    epochs="${dataloader.mosaic_epochs}",
    probability=0.5,
)
dataloader.train.mixup = L(Mixup)(probability=0.5, epochs="${dataloader.mosaic_epochs}", share=(0.45, 0.55))
