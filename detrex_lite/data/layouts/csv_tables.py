"""Folders with CSV tables of boxes."""

from ..faults import DatasetError
from .found import Layout
from .tree import Tree


def csv_tables(tree: Tree) -> list[str]:
    return []


def csv_layout(tree: Tree, paths: list[str]) -> Layout:
    raise DatasetError("not yet")
