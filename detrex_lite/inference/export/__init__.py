"""Detectors as files that other programs run. docs/deployment.md is the guide."""

from .api import ExportError, export
from .check import Differences
from .formats import FORMATS
from .graph import DetectionGraph

__all__ = ["FORMATS", "DetectionGraph", "Differences", "ExportError", "export"]
