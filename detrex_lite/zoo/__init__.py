"""Published checkpoints: which config each goes with, where it is, and how it does. docs/zoo.md is the guide."""

from .cache import Checkpoint, cache_folder, cached_path, obtain
from .entry import BY_DETREX, CONVERTED, DETREX, DETREX_STORAGE, ZooEntry, ZooError
from .registry import find_entry, load_zoo, read_table, select

__all__ = [
    "BY_DETREX",
    "CONVERTED",
    "DETREX",
    "DETREX_STORAGE",
    "Checkpoint",
    "ZooEntry",
    "ZooError",
    "cache_folder",
    "cached_path",
    "find_entry",
    "load_zoo",
    "obtain",
    "read_table",
    "select",
]
