"""What detectors are made of above the layers: backbones, necks, queries, heads, matching, losses, a base class.

Encoders and decoders are in `single_level` (one feature map) and `deformable` (several feature levels).
"""

from .anchors import AnchorBoxes, pair_with_patterns
from .backbone import (
    EVA02,
    FocalNet,
    HGNetv2,
    InternImage,
    PResNet,
    ResNet,
    SimpleFeaturePyramid,
    TimmBackbone,
    ViTDet,
    WindowedViT,
    hgnetv2_channels,
    presnet_channels,
    pyramid_channels,
    resnet_channels,
    stage_channels,
    timm_channels,
    vit_channels,
)
from .criterion import (
    BoxL1Loss,
    Comparison,
    CrossEntropyLoss,
    DecoupledDistillationFocalLoss,
    FineGrainedLocalizationLoss,
    FocalLoss,
    GIoULoss,
    IoUAwareBCELoss,
    MatchabilityAwareLoss,
    MatchedLoss,
    MatchUnion,
    Mean,
    PositionSupervisedLoss,
    SetCriterion,
    VarifocalLoss,
    sigmoid_focal_loss,
)
from .decoder import Decoder, DecoderState, Memory
from .denoising import ContrastiveDenoising, Denoising, GroupDenoising, add_indicator
from .detector import Detector, ImagePreprocessor, Outputs, require_equal
from .edge_distributions import DistributionHeads, EdgeBins, LocationQuality
from .heads import DetectionHeads, LayerStep, refine
from .initialisation import xavier_uniform
from .matcher import (
    BoxL1Cost,
    CrossEntropyCost,
    FocalCost,
    GIoUCost,
    HungarianMatcher,
    Matcher,
    MatchingCost,
    PositionModulatedCost,
    RankWeights,
)
from .multi_scale import TokenLevels, flatten_maps
from .neck import ChannelMapper, HybridEncoder, MultiScaleProjector
from .postprocess import SoftmaxPostprocessor, TopKPostprocessor
from .predictions import FINAL, LayerOutput, Match, Predictions, name_layers, name_of_layer
from .queries import Queries, QueryBlock
from .query_layout import QueryLayout
from .recollection import selective_recollection
from .relation import PositionRelation
from .reparam_heads import ReparamHeads
from .targets import PaddedTargets, Targets

__all__ = [
    "EVA02",
    "FINAL",
    "AnchorBoxes",
    "BoxL1Cost",
    "BoxL1Loss",
    "ChannelMapper",
    "Comparison",
    "ContrastiveDenoising",
    "CrossEntropyCost",
    "CrossEntropyLoss",
    "Decoder",
    "DecoderState",
    "DecoupledDistillationFocalLoss",
    "Denoising",
    "DetectionHeads",
    "Detector",
    "DistributionHeads",
    "EdgeBins",
    "FineGrainedLocalizationLoss",
    "FocalCost",
    "FocalLoss",
    "FocalNet",
    "GIoUCost",
    "GIoULoss",
    "GroupDenoising",
    "HGNetv2",
    "HungarianMatcher",
    "HybridEncoder",
    "ImagePreprocessor",
    "InternImage",
    "IoUAwareBCELoss",
    "LayerOutput",
    "LayerStep",
    "LocationQuality",
    "Match",
    "MatchUnion",
    "MatchabilityAwareLoss",
    "MatchedLoss",
    "Matcher",
    "MatchingCost",
    "Mean",
    "Memory",
    "MultiScaleProjector",
    "Outputs",
    "PResNet",
    "PaddedTargets",
    "PositionModulatedCost",
    "PositionRelation",
    "PositionSupervisedLoss",
    "Predictions",
    "Queries",
    "QueryBlock",
    "QueryLayout",
    "RankWeights",
    "ReparamHeads",
    "ResNet",
    "SetCriterion",
    "SimpleFeaturePyramid",
    "SoftmaxPostprocessor",
    "Targets",
    "TimmBackbone",
    "TokenLevels",
    "TopKPostprocessor",
    "VarifocalLoss",
    "ViTDet",
    "WindowedViT",
    "add_indicator",
    "flatten_maps",
    "hgnetv2_channels",
    "name_layers",
    "name_of_layer",
    "pair_with_patterns",
    "presnet_channels",
    "pyramid_channels",
    "refine",
    "require_equal",
    "resnet_channels",
    "selective_recollection",
    "sigmoid_focal_loss",
    "stage_channels",
    "timm_channels",
    "vit_channels",
    "xavier_uniform",
]
