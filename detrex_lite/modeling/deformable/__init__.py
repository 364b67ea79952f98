"""The family that Deformable DETR founded: encoder, proposals, sources of queries, decoders, the base detector."""

from .detector import MultiScaleDetector
from .grouped_queries import GroupedAnchorQueries
from .proposals import (
    EncoderProposals,
    ProposalTokens,
    best_proposals,
    gather_tokens,
    taken_padding,
    token_anchors,
    topk_tokens,
)
from .queries import AnchorQueries, DeformableQueries, StartingQueries
from .sparse_encoder import ForegroundScores, SparseEncoder, SparseEncoderLayer
from .transformer import (
    DeformableAnchorDecoder,
    DeformableBoxDecoder,
    DeformableDecoder,
    DeformableEncoder,
    MemoryFusion,
    MultiScaleTransformer,
)

__all__ = [
    "AnchorQueries",
    "DeformableAnchorDecoder",
    "DeformableBoxDecoder",
    "DeformableDecoder",
    "DeformableEncoder",
    "DeformableQueries",
    "EncoderProposals",
    "ForegroundScores",
    "GroupedAnchorQueries",
    "MemoryFusion",
    "MultiScaleDetector",
    "MultiScaleTransformer",
    "ProposalTokens",
    "SparseEncoder",
    "SparseEncoderLayer",
    "StartingQueries",
    "best_proposals",
    "gather_tokens",
    "taken_padding",
    "token_anchors",
    "topk_tokens",
]
