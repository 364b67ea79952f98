"""What detectors are made of above the layers: backbones, necks, matching, losses, postprocessing, a base class."""

from .backbone import ResNet
from .criterion import BoxL1Loss, CrossEntropyLoss, FocalLoss, GIoULoss, SetCriterion
from .detector import Detector
from .matcher import BoxL1Cost, CrossEntropyCost, FocalCost, GIoUCost, HungarianMatcher
from .neck import ChannelMapper
from .postprocess import SoftmaxPostprocessor, TopKPostprocessor
from .predictions import Predictions, name_layers
from .targets import Targets

__all__ = [
    "BoxL1Cost",
    "BoxL1Loss",
    "ChannelMapper",
    "CrossEntropyCost",
    "CrossEntropyLoss",
    "Detector",
    "FocalCost",
    "FocalLoss",
    "GIoUCost",
    "GIoULoss",
    "HungarianMatcher",
    "Predictions",
    "ResNet",
    "SetCriterion",
    "SoftmaxPostprocessor",
    "Targets",
    "TopKPostprocessor",
    "name_layers",
]
