"""Image backbones: a dict of feature maps from an image."""

from .resnet import ResNet

__all__ = ["ResNet"]
