"""Normalisation of images: by the statistics of ImageNet, on which backbones are pre-trained."""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import ImagePreprocessor

imagenet = L(ImagePreprocessor)(
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
    size_divisibility=1,
)
