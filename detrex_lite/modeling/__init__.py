"""What detectors are made of above the layers: backbones, necks, matching, losses, postprocessing, a base class."""

from .anchors import AnchorBoxes, pair_with_patterns
from .backbone import ResNet, TimmBackbone, resnet_channels, timm_channels
from .criterion import BoxL1Loss, CrossEntropyLoss, FocalLoss, GIoULoss, SetCriterion
from .denoising import ContrastiveDenoising, Denoising, DenoisingQueries, GroupDenoising, add_indicator
from .detector import Detector
from .initialisation import begin_at_reference, expect_few_objects, xavier_uniform
from .matcher import BoxL1Cost, CrossEntropyCost, FocalCost, GIoUCost, HungarianMatcher
from .multi_scale import TokenLevels, flatten_maps
from .neck import ChannelMapper, SimpleFeaturePyramid
from .postprocess import SoftmaxPostprocessor, TopKPostprocessor
from .predictions import Match, Predictions, name_layers
from .single_level import SingleLevelDetector
from .targets import Targets
from .two_stage import EncoderProposals, Proposals, best_tokens, refine, take_best, take_tokens, token_anchors

__all__ = [
    "AnchorBoxes",
    "BoxL1Cost",
    "BoxL1Loss",
    "ChannelMapper",
    "ContrastiveDenoising",
    "CrossEntropyCost",
    "CrossEntropyLoss",
    "Denoising",
    "DenoisingQueries",
    "Detector",
    "EncoderProposals",
    "FocalCost",
    "FocalLoss",
    "GIoUCost",
    "GIoULoss",
    "GroupDenoising",
    "HungarianMatcher",
    "Match",
    "Predictions",
    "Proposals",
    "ResNet",
    "SetCriterion",
    "SimpleFeaturePyramid",
    "SingleLevelDetector",
    "SoftmaxPostprocessor",
    "Targets",
    "TimmBackbone",
    "TokenLevels",
    "TopKPostprocessor",
    "add_indicator",
    "begin_at_reference",
    "best_tokens",
    "expect_few_objects",
    "flatten_maps",
    "name_layers",
    "pair_with_patterns",
    "refine",
    "resnet_channels",
    "take_best",
    "take_tokens",
    "timm_channels",
    "token_anchors",
    "xavier_uniform",
]
