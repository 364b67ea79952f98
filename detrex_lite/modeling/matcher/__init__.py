"""Bipartite matching of predictions and ground truth."""

from .costs import BoxL1Cost, CrossEntropyCost, FocalCost, GIoUCost, MatchingCost, PositionModulatedCost
from .hungarian import HungarianMatcher, Matcher
from .ranking import RankWeights

__all__ = [
    "BoxL1Cost",
    "CrossEntropyCost",
    "FocalCost",
    "GIoUCost",
    "HungarianMatcher",
    "Matcher",
    "MatchingCost",
    "PositionModulatedCost",
    "RankWeights",
]
