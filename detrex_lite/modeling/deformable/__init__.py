"""The family that Deformable DETR founded: encoder, proposals, sources of queries, decoders, the base detector."""

from .detector import MultiScaleDetector
from .grouped_queries import GroupedAnchorQueries
from .proposals import (
    EncoderProposals,
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
    "GroupedAnchorQueries",
    "MemoryFusion",
    "MultiScaleDetector",
    "MultiScaleTransformer",
    "ProposalTokens",
    "Selector",
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
