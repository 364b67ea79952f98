"""Image backbones, which compute a dict of feature maps from images."""

from .focalnet import FocalNet
from .hgnetv2 import HGNetv2, hgnetv2_channels
from .internimage import InternImage
from .presnet import PResNet, presnet_channels
from .pretrained import stage_channels
from .resnet import ResNet, resnet_channels
from .simple_feature_pyramid import SimpleFeaturePyramid, pyramid_channels
from .timm_backbone import TimmBackbone, timm_channels
from .vit import EVA02, ViTDet
from .windowed_vit import WindowedViT, vit_channels

__all__ = [
    "EVA02",
    "FocalNet",
    "HGNetv2",
    "InternImage",
    "PResNet",
    "ResNet",
    "SimpleFeaturePyramid",
    "TimmBackbone",
    "ViTDet",
    "WindowedViT",
    "hgnetv2_channels",
    "presnet_channels",
    "pyramid_channels",
    "resnet_channels",
    "stage_channels",
    "timm_channels",
    "vit_channels",
]
