"""Lazy configs: Python files that describe what to build, and functions that change, check and build it."""

from .error import ConfigError
from .instantiation import instantiate
from .lazy import LazyCall, LazyConfig
from .loading import get_config
from .resolver import register_resolver
from .targets import locate
from .validation import validate

__all__ = ["ConfigError", "LazyCall", "LazyConfig", "get_config", "instantiate", "locate", "validate"]

register_resolver()
