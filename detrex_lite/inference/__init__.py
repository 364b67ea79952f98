"""Detections of trained models in one's own images. It needs nothing of the engine that trained them."""

from .predictor import Predictor

__all__ = ["Predictor"]
