"""Losses of matched predictions, and the criterion that sums them over all decoder layers."""

from .comparison import Comparison
from .losses import (
    BoxL1Loss,
    CrossEntropyLoss,
    FocalLoss,
    GIoULoss,
    IoUAwareBCELoss,
    MatchedLoss,
    Mean,
    VarifocalLoss,
    sigmoid_focal_loss,
)
from .set_criterion import SetCriterion, family

__all__ = [
    "BoxL1Loss",
    "Comparison",
    "CrossEntropyLoss",
    "FocalLoss",
    "GIoULoss",
    "IoUAwareBCELoss",
    "MatchedLoss",
    "Mean",
    "SetCriterion",
    "VarifocalLoss",
    "family",
    "sigmoid_focal_loss",
]
