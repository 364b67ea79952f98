"""Image backbones: a dict of feature maps from an image."""

from .resnet import ResNet, resnet_channels
from .timm_backbone import TimmBackbone, timm_channels

__all__ = ["ResNet", "TimmBackbone", "resnet_channels", "timm_channels"]
