"""Data sets in the layouts that labelling tools write, found by looking into a folder."""

from .finding import find_dataset, load_split
from .found import FoundDataset

__all__ = ["FoundDataset", "find_dataset", "load_split"]
