"""The family of Deformable DETR: encoder, proposals, sources of queries, decoders, the base detector."""

from .branches import DenseBranch, HybridBranch, ProposalBranch
from .detector import MultiScaleDetector
from .distinct import DistinctQueryDecoder
from .grouped_queries import GroupedAnchorQueries
from .proposals import (
    EncoderProposals,
    ProposalSelection,
    ProposalTokens,
    Selector,
    best_proposals,
    gather_tokens,
    highest,
    record_selected_tokens,
    select_tokens_by,
    taken_padding,
    token_anchors,
    topk_tokens,
)
from .queries import AnchorQueries, DeformableQueries, StartingQueries
from .selection import DistinctProposals, LevelwiseNMS
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
    "DenseBranch",
    "DistinctProposals",
    "DistinctQueryDecoder",
    "EncoderProposals",
    "ForegroundScores",
    "GroupedAnchorQueries",
    "HybridBranch",
    "LevelwiseNMS",
    "MemoryFusion",
    "MultiScaleDetector",
    "MultiScaleTransformer",
    "ProposalBranch",
    "ProposalSelection",
    "ProposalTokens",
    "Selector",
    "SparseEncoder",
    "SparseEncoderLayer",
    "StartingQueries",
    "best_proposals",
    "gather_tokens",
    "highest",
    "record_selected_tokens",
    "select_tokens_by",
    "taken_padding",
    "token_anchors",
    "topk_tokens",
]
