"""Matching of predictions and objects: bipartite matching, and assignment by overlap."""

from .costs import BoxL1Cost, CrossEntropyCost, FocalCost, GIoUCost, MatchingCost, PositionModulatedCost
from .hungarian import HungarianMatcher, Matcher
from .iou_assigner import IoUAssigner
from .mask_costs import MaskCost
from .ranking import RankWeights

__all__ = [
    "BoxL1Cost",
    "CrossEntropyCost",
    "FocalCost",
    "GIoUCost",
    "HungarianMatcher",
    "IoUAssigner",
    "MaskCost",
    "Matcher",
    "MatchingCost",
    "PositionModulatedCost",
    "RankWeights",
]
