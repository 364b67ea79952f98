"""Detectors whose transformer reads one feature map, as DETR's does: encoder, decoders, queries, the base."""

from .detector import SingleLevelDetector
from .queries import LearnedAnchors, LearnedQueries
from .transformer import (
    AnchorDecoder,
    ConditionalDecoder,
    PositionalDecoder,
    SingleLevelEncoder,
    SingleLevelTransformer,
    modulate,
)

__all__ = [
    "AnchorDecoder",
    "ConditionalDecoder",
    "LearnedAnchors",
    "LearnedQueries",
    "PositionalDecoder",
    "SingleLevelDetector",
    "SingleLevelEncoder",
    "SingleLevelTransformer",
    "modulate",
]
