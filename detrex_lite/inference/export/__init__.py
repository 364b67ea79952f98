"""Export of detectors to files that other programs run; see docs/deployment.md."""

from .api import ExportError, export
from .check import Differences
from .formats import FORMATS
from .graph import DetectionGraph

__all__ = ["FORMATS", "DetectionGraph", "Differences", "ExportError", "export"]
