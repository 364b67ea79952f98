"""Detections of trained models in one's own images. It needs nothing of the engine that trained them.

Exported files run without torch: what needs it is imported when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .exported import ExportedPredictor
from .views import AugmentedPredictor, TiledPredictor

if TYPE_CHECKING:  # found by `__getattr__` when the program runs
    from .predictor import Predictor as Predictor

__all__ = ["AugmentedPredictor", "ExportedPredictor", "Predictor", "TiledPredictor"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        return import_module("detrex_lite.inference.predictor").Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
