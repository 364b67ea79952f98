"""Detectors whose transformer reads one feature map, such as DETR: encoder, decoders, queries, the base class."""

from .detector import SingleLevelDetector
from .mask_head import AttentionMaskHead
from .queries import LearnedAnchors, LearnedPoints, LearnedQueries
from .sampling import PollAndPoolSampler, SampledTokens
from .transformer import (
    AnchorDecoder,
    ConditionalDecoder,
    PointDecoder,
    PositionalDecoder,
    SingleLevelEncoder,
    SingleLevelTransformer,
    modulate,
)

__all__ = [
    "AnchorDecoder",
    "AttentionMaskHead",
    "ConditionalDecoder",
    "LearnedAnchors",
    "LearnedPoints",
    "LearnedQueries",
    "PointDecoder",
    "PollAndPoolSampler",
    "PositionalDecoder",
    "SampledTokens",
    "SingleLevelDetector",
    "SingleLevelEncoder",
    "SingleLevelTransformer",
    "modulate",
]
