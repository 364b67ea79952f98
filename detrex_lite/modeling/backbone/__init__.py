"""Image backbones: a dict of feature maps from an image."""

from .focalnet import FocalNet
from .pretrained import stage_channels
from .resnet import ResNet, resnet_channels
from .timm_backbone import TimmBackbone, timm_channels

__all__ = ["FocalNet", "ResNet", "TimmBackbone", "resnet_channels", "stage_channels", "timm_channels"]
