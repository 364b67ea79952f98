"""Predictions of trained models in users' images. Does not depend on the training engine.

Exported files run without torch: modules that need torch are imported only when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .exported import ExportedPredictor
from .views import AugmentedPredictor, TiledPredictor

if TYPE_CHECKING:  # at run time, `__getattr__` imports it
    from .predictor import Predictor as Predictor

__all__ = ["AugmentedPredictor", "ExportedPredictor", "Predictor", "TiledPredictor"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        return import_module("detrex_lite.inference.predictor").Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
