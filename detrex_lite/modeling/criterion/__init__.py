"""Losses of matched predictions, and the criterion that sums them over all decoder layers."""

from .comparison import Comparison
from .losses import BoxL1Loss, CrossEntropyLoss, FocalLoss, GIoULoss, MatchedLoss, sigmoid_focal_loss
from .set_criterion import SetCriterion

__all__ = [
    "BoxL1Loss",
    "Comparison",
    "CrossEntropyLoss",
    "FocalLoss",
    "GIoULoss",
    "MatchedLoss",
    "SetCriterion",
    "sigmoid_focal_loss",
]
