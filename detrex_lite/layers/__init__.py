"""The building blocks of detectors."""

from .attention import MultiheadAttention
from .conditional_attention import ConditionalCrossAttention, ConditionalSelfAttention
from .convolution import (
    ConvNormAct,
    CSPRepLayer,
    RepNCSPELAN,
    RepVGGBlock,
    SCDown,
    convert_to_deploy,
    fused_convolution,
    make_activation,
)
from .copies import copies, draw_again, draw_children_again
from .deformable_attention import MultiScaleDeformableAttention
from .ffn import FFN, MLP
from .gated_attention import GatedAttention
from .position_embedding import (
    PositionEmbeddingLearned,
    PositionEmbeddingSine,
    get_grid_sine_pos_embed,
    get_sine_pos_embed,
)
from .precision import in_own_precision
from .row_column_attention import RowColumnDecoupledAttention, TokenGrid
from .transformer import BaseTransformerLayer, TransformerLayerSequence

__all__ = [
    "FFN",
    "MLP",
    "BaseTransformerLayer",
    "CSPRepLayer",
    "ConditionalCrossAttention",
    "ConditionalSelfAttention",
    "ConvNormAct",
    "GatedAttention",
    "MultiScaleDeformableAttention",
    "MultiheadAttention",
    "PositionEmbeddingLearned",
    "PositionEmbeddingSine",
    "RepNCSPELAN",
    "RepVGGBlock",
    "RowColumnDecoupledAttention",
    "SCDown",
    "TokenGrid",
    "TransformerLayerSequence",
    "convert_to_deploy",
    "copies",
    "draw_again",
    "draw_children_again",
    "fused_convolution",
    "get_grid_sine_pos_embed",
    "get_sine_pos_embed",
    "in_own_precision",
    "make_activation",
]
