"""The blocks that detectors are assembled from."""

from .attention import MultiheadAttention
from .conditional_attention import ConditionalCrossAttention, ConditionalSelfAttention
from .deformable_attention import MultiScaleDeformableAttention
from .ffn import FFN, MLP
from .position_embedding import PositionEmbeddingLearned, PositionEmbeddingSine, get_sine_pos_embed
from .precision import in_own_precision
from .transformer import BaseTransformerLayer, TransformerLayerSequence

__all__ = [
    "FFN",
    "MLP",
    "BaseTransformerLayer",
    "ConditionalCrossAttention",
    "ConditionalSelfAttention",
    "MultiScaleDeformableAttention",
    "MultiheadAttention",
    "PositionEmbeddingLearned",
    "PositionEmbeddingSine",
    "TransformerLayerSequence",
    "get_sine_pos_embed",
    "in_own_precision",
]
