"""Proposals of the encoder (Deformable DETR, Zhu et al., ICLR 2021, section 4.2 and appendix A.4).

Legend: B batch, N tokens of all levels, Q queries, C channels.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..decoder import Memory
from ..heads import DetectionHeads, proposed_from
from ..multi_scale import TokenLevels
from ..predictions import LayerOutput

# The box around a token of the finest level has this fraction of the image's sides; it doubles from level to level.
FINEST_SIDE = 0.05
# Tokens whose centre is nearer to a border of the image (as a fraction of its sides) make no proposal.
MARGIN = 0.01


class ProposalTokens(NamedTuple):
    """Encoder tokens, projected for proposals.

    Attributes:
        tokens: (B, N, C), projected; tokens without a proposal are zero before the projection.
        anchors: (B, N, 4) or (1, N, 4) cxcywh in 0..1, a box around each token.
        proposes: (B, N) or (1, N) bool, False for tokens without a proposal.
    """

    tokens: Tensor
    anchors: Tensor
    proposes: Tensor

    def references(self) -> Tensor:
        """Return the references of proposed boxes, (B or 1, N, 4): anchors, or (1, 1, 1, 1) without a proposal."""
        return proposed_from(self.anchors, self.proposes).sigmoid()


class ProposalSelection(Protocol):
    """The interface of a selection of proposals."""

    def __call__(self, scores: Tensor, boxes: Tensor, number: int, levels: TokenLevels) -> Tensor:
        """Choose tokens.

        Args:
            scores: (B, N) logits.
            boxes: (B, N, 4) cxcywh in 0..1, the proposals of the tokens.
            number: number of tokens to choose.
            levels: the layout of the tokens; padding is treated as in `topk_tokens`.

        Returns:
            (B, Q) indices, best first, where Q is `number`, or N if less.
        """
        ...


class EncoderProposals(nn.Module):
    """Projects encoder tokens for proposals: each token predicts a class and a box around its location.

    Args:
        embed_dim: C.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.enc_output = nn.Linear(embed_dim, embed_dim)
        self.enc_output_norm = nn.LayerNorm(embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier-uniform weights, as the paper's repository."""
        nn.init.xavier_uniform_(self.enc_output.weight)

    def forward(self, memory: Memory) -> ProposalTokens:
        """Project the tokens of a memory with feature levels; `DetectionHeads.propose` takes the result."""
        anchors, proposes = token_anchors(memory.require_levels())
        tokens = self.enc_output_norm(self.enc_output(memory.tokens.masked_fill(~proposes[..., None], 0)))
        return ProposalTokens(tokens, anchors, proposes)


def token_anchors(levels: TokenLevels) -> tuple[Tensor, Tensor]:
    """Create a box around each token, and mark tokens without a proposal: in the padding or at the image's border.

    Returns:
        (B, N, 4) cxcywh in 0..1 of each image, and (B, N) bool; B is 1 when no image is padded.
    """
    centres = levels.centres()
    sides = FINEST_SIDE * 2.0 ** levels.level_of_tokens().to(centres.dtype)
    anchors = torch.cat([centres, sides[:, None].expand_as(centres)], dim=-1)
    proposes = ((anchors > MARGIN) & (anchors < 1 - MARGIN)).all(-1)
    return anchors, proposes if levels.padding is None else proposes & ~levels.padding


Selector = Callable[[Tensor, int], Tensor]
"""A function of scores (B, N) and a number Q, which returns the indices of Q tokens, (B, Q)."""


def highest(scores: Tensor, number: int) -> Tensor:
    """Select the tokens with the highest scores, best first; the default `Selector`."""
    return scores.topk(number, dim=1).indices


_selector: ContextVar[Selector] = ContextVar("selector", default=highest)


@contextlib.contextmanager
def select_tokens_by(selector: Selector) -> Iterator[None]:
    """Use another function for the selection of `topk_tokens` within this context.

    Rounding decides between tokens with nearly equal scores, and the selected tokens determine the queries. Two
    computations of a model are therefore comparable only with the same selection, which this imposes on one of them.
    """
    token = _selector.set(selector)
    try:
        yield
    finally:
        _selector.reset(token)


@contextlib.contextmanager
def record_selected_tokens() -> Iterator[list[Tensor]]:
    """Record the indices (B, Q) that each call of `topk_tokens` returns within this context."""
    selected: list[Tensor] = []

    def select(scores: Tensor, number: int) -> Tensor:
        selected.append(highest(scores, number))
        return selected[-1]

    with select_tokens_by(select):
        yield selected


def topk_tokens(scores: Tensor, number: int, levels: TokenLevels) -> Tensor:
    """Select the tokens with the highest scores.

    Args:
        scores: (B, N).
        number: number of tokens.
        levels: the layout of the tokens. Published implementations select padding like any token. Unless these levels
            are `as_published`, padding is selected only when there are no other tokens (see `taken_padding`), so that
            the detections of an image do not depend on the rest of the batch.

    Returns:
        (B, Q) indices, best first, where Q is `number`, or N if less.
    """
    return _selector.get()(without_padding(scores, levels), min(number, scores.shape[1]))


def without_padding(scores: Tensor, levels: TokenLevels) -> Tensor:
    """Set the scores, (B, N), of padding that must not be selected to -inf; see `topk_tokens`."""
    if levels.padding is None or levels.as_published:
        return scores
    return scores.masked_fill(levels.padding, float("-inf"))


def taken_padding(indices: Tensor, levels: TokenLevels) -> Tensor | None:
    """Mark selected tokens that are padding, which occur when an image has fewer tokens than queries.

    Args:
        indices: (B, Q), as returned by `topk_tokens`.
        levels: the layout of the tokens.

    Returns:
        (B, Q) bool, or None when each image has enough tokens, and when levels are `as_published`.
    """
    if levels.padding is None or levels.fewest_tokens is None or levels.fewest_tokens >= indices.shape[1]:
        return None
    return levels.padding.gather(1, indices)


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Gather tokens (B, N, ...) by indices (B, Q): (B, Q, ...)."""
    index = indices.reshape(*indices.shape, *[1] * (tokens.dim() - 2))
    return tokens.gather(1, index.expand(-1, -1, *tokens.shape[2:]))


def best_proposals(
    proposed: ProposalTokens,
    number: int,
    memory: Memory,
    heads: DetectionHeads,
    *,
    group: int = 0,
    selection: ProposalSelection | None = None,
) -> tuple[LayerOutput, Tensor]:
    """Compute the proposals of the tokens with the highest score of any class.

    Args:
        proposed: the encoder's tokens, projected for proposals.
        number: number of proposals.
        memory: the encoder's output, with the layout of the tokens, see `topk_tokens`.
        heads: with heads for the encoder.
        group: the group whose heads are used, see `DetectionHeads.propose`.
        selection: chooses tokens by scores and boxes; None for the highest scores, without computing all boxes.

    Returns:
        Classes and boxes, (B, Q, ...), best first, and the indices of the tokens, (B, Q).
    """
    with torch.no_grad():
        levels = memory.require_levels()
        if selection is None:
            best = topk_tokens(heads.score_tokens(proposed.tokens, group=group), number, levels)
        else:
            all_proposals = heads.propose(*proposed, group=group)
            best = selection(all_proposals.logits.max(-1).values, all_proposals.boxes, number, levels)
    tokens, anchors, proposes = proposed
    chosen = (
        gather_tokens(tensor.expand(tokens.shape[0], *tensor.shape[1:]), best) for tensor in (tokens, anchors, proposes)
    )
    return heads.propose(*chosen, group=group)._replace(mask_features=memory.mask_features), best
