"""Lazy configs: Python files that describe what to build, and functions that change, check and build them."""

from .error import ConfigError, ConstructionError, explain
from .instantiation import instantiate
from .lazy import LazyCall, LazyConfig
from .loading import get_config
from .resolver import register_resolvers
from .targets import locate
from .trusted import trust
from .validation import validate

__all__ = [
    "ConfigError",
    "ConstructionError",
    "LazyCall",
    "LazyConfig",
    "explain",
    "get_config",
    "instantiate",
    "locate",
    "trust",
    "validate",
]

register_resolvers()
