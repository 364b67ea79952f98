"""Necks: what turns a backbone's feature maps into a transformer's input."""

from .channel_mapper import ChannelMapper

__all__ = ["ChannelMapper"]
