"""What detectors are made of above the layers: backbones, necks, matching, losses, postprocessing, a base class."""

from .backbone import ResNet
from .criterion import BoxL1Loss, CrossEntropyLoss, FocalLoss, GIoULoss, SetCriterion
from .detector import Detector
from .matcher import BoxL1Cost, CrossEntropyCost, FocalCost, GIoUCost, HungarianMatcher
from .multi_scale import TokenLevels, flatten_maps
from .neck import ChannelMapper
from .postprocess import SoftmaxPostprocessor, TopKPostprocessor
from .predictions import Predictions, name_layers
from .targets import Targets
from .two_stage import EncoderProposals, Proposals, refine, take_best, token_anchors

__all__ = [
    "BoxL1Cost",
    "BoxL1Loss",
    "ChannelMapper",
    "CrossEntropyCost",
    "CrossEntropyLoss",
    "Detector",
    "EncoderProposals",
    "FocalCost",
    "FocalLoss",
    "GIoUCost",
    "GIoULoss",
    "HungarianMatcher",
    "Predictions",
    "Proposals",
    "ResNet",
    "SetCriterion",
    "SoftmaxPostprocessor",
    "Targets",
    "TokenLevels",
    "TopKPostprocessor",
    "flatten_maps",
    "name_layers",
    "refine",
    "take_best",
    "token_anchors",
]
