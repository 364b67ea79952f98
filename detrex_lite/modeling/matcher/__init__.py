"""Bipartite matching of predictions and ground truth."""

from .costs import BoxL1Cost, CrossEntropyCost, FocalCost, GIoUCost, MatchingCost
from .hungarian import HungarianMatcher, Matcher

__all__ = [
    "BoxL1Cost",
    "CrossEntropyCost",
    "FocalCost",
    "GIoUCost",
    "HungarianMatcher",
    "Matcher",
    "MatchingCost",
]
