"""The blocks that detectors are assembled from."""

from .attention import MultiheadAttention
from .ffn import FFN, MLP
from .position_embedding import PositionEmbeddingLearned, PositionEmbeddingSine, get_sine_pos_embed
from .transformer import BaseTransformerLayer, TransformerLayerSequence

__all__ = [
    "FFN",
    "MLP",
    "BaseTransformerLayer",
    "MultiheadAttention",
    "PositionEmbeddingLearned",
    "PositionEmbeddingSine",
    "TransformerLayerSequence",
    "get_sine_pos_embed",
]
