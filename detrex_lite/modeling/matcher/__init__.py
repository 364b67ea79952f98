"""Bipartite matching of predictions and ground truth."""

from ..predictions import Match
from .costs import BoxL1Cost, CrossEntropyCost, FocalCost, GIoUCost, MatchingCost
from .hungarian import HungarianMatcher

__all__ = [
    "BoxL1Cost",
    "CrossEntropyCost",
    "FocalCost",
    "GIoUCost",
    "HungarianMatcher",
    "Match",
    "MatchingCost",
]
