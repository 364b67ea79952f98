"""Necks: what turns a backbone's feature maps into a transformer's input."""

from .channel_mapper import ChannelMapper
from .simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ["ChannelMapper", "SimpleFeaturePyramid"]
