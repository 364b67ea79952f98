"""Losses of matched predictions, and the criterion that sums them over all decoder layers."""

from .alignment import AlignmentFocalLoss, AlignmentGIoULoss, alignment
from .comparison import Comparison
from .distributions import DecoupledDistillationFocalLoss, FineGrainedLocalizationLoss
from .families import family
from .losses import (
    BoxL1Loss,
    CrossEntropyLoss,
    FocalLoss,
    GIoULoss,
    IoUAwareBCELoss,
    MatchabilityAwareLoss,
    MatchedLoss,
    Mean,
    PositionSupervisedLoss,
    QualityFocalLoss,
    VarifocalLoss,
    sigmoid_focal_loss,
)
from .mask_losses import MaskBCELoss, MaskDiceLoss, WholeMaskDiceLoss, WholeMaskFocalLoss
from .match_union import MatchUnion
from .set_criterion import SetCriterion

__all__ = [
    "AlignmentFocalLoss",
    "AlignmentGIoULoss",
    "BoxL1Loss",
    "Comparison",
    "CrossEntropyLoss",
    "DecoupledDistillationFocalLoss",
    "FineGrainedLocalizationLoss",
    "FocalLoss",
    "GIoULoss",
    "IoUAwareBCELoss",
    "MaskBCELoss",
    "MaskDiceLoss",
    "MatchUnion",
    "MatchabilityAwareLoss",
    "MatchedLoss",
    "Mean",
    "PositionSupervisedLoss",
    "QualityFocalLoss",
    "SetCriterion",
    "VarifocalLoss",
    "WholeMaskDiceLoss",
    "WholeMaskFocalLoss",
    "alignment",
    "family",
    "sigmoid_focal_loss",
]
