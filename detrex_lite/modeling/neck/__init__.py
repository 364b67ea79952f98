"""Necks, which turn a backbone's feature maps into a transformer's input."""

from .channel_mapper import ChannelMapper
from .hybrid_encoder import HybridEncoder
from .multi_scale_projector import MultiScaleProjector

__all__ = ["ChannelMapper", "HybridEncoder", "MultiScaleProjector"]
