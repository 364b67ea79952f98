"""Losses of matched predictions, and the criterion that sums them over all decoder layers."""

from .comparison import Comparison
from .losses import BoxL1Loss, CrossEntropyLoss, FocalLoss, GIoULoss, MatchedLoss, Mean, sigmoid_focal_loss
from .set_criterion import SetCriterion, family

__all__ = [
    "BoxL1Loss",
    "Comparison",
    "CrossEntropyLoss",
    "FocalLoss",
    "GIoULoss",
    "MatchedLoss",
    "Mean",
    "SetCriterion",
    "family",
    "sigmoid_focal_loss",
]
