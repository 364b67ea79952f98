"""Published checkpoints with their configs, downloads and published results. docs/zoo.md is the guide."""

from .cache import Checkpoint, cache_folder, cached_path, obtain
from .entry import Origin, ZooEntry, ZooError, detrex, transformers
from .registry import find_entry, load_zoo, read_table, select

__all__ = [
    "Checkpoint",
    "Origin",
    "ZooEntry",
    "ZooError",
    "cache_folder",
    "cached_path",
    "detrex",
    "find_entry",
    "load_zoo",
    "obtain",
    "read_table",
    "select",
    "transformers",
]
