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

# A proposal of the finest level has sides of this share of the image's; each level doubles them.
FINEST_SIDE = 0.05
# Tokens whose centre is nearer to a border of the image (as a share of its sides) propose nothing.
MARGIN = 0.01


class ProposalTokens(NamedTuple):
    """Encoded tokens that heads make proposals of.

    Attributes:
        tokens: (B, N, C), projected; zero before the projection where nothing is proposed.
        anchors: (B, N, 4) or (1, N, 4) cxcywh in 0..1, a box around each token.
        proposes: (B, N) or (1, N) bool, False for tokens that propose nothing.
    """

    tokens: Tensor
    anchors: Tensor
    proposes: Tensor

    def references(self) -> Tensor:
        """(B, N, 4) or (1, N, 4), what boxes are predicted from: anchors; (1, 1, 1, 1) where nothing is proposed."""
        return proposed_from(self.anchors, self.proposes).sigmoid()


class ProposalSelection(Protocol):
    """The interface of a selection."""

    def __call__(self, scores: Tensor, boxes: Tensor, number: int, levels: TokenLevels) -> Tensor:
        """Choose tokens.

        Args:
            scores: (B, N) logits.
            boxes: (B, N, 4) cxcywh in 0..1, the tokens' proposals.
            number: how many.
            levels: where the tokens are; padding is treated as `topk_tokens` does.

        Returns:
            (B, Q) indices, best first, where Q is `number`, or N if less.
        """
        ...


class EncoderProposals(nn.Module):
    """Projects encoded tokens to what proposals are made of: each token predicts a class and a box around its place.

    Args:
        embed_dim: C.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.enc_output = nn.Linear(embed_dim, embed_dim)
        self.enc_output_norm = nn.LayerNorm(embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, as the paper's repository."""
        nn.init.xavier_uniform_(self.enc_output.weight)

    def forward(self, memory: Memory) -> ProposalTokens:
        """The tokens of a memory with feature levels; `DetectionHeads.propose` takes them."""
        anchors, proposes = token_anchors(memory.require_levels())
        tokens = self.enc_output_norm(self.enc_output(memory.tokens.masked_fill(~proposes[..., None], 0)))
        return ProposalTokens(tokens, anchors, proposes)


def token_anchors(levels: TokenLevels) -> tuple[Tensor, Tensor]:
    """A box around each token, and whether the token may propose: not in the padding, nor at the image's border.

    Returns:
        (B, N, 4) cxcywh in 0..1 of each image, and (B, N) bool; B is 1 when no image is padded.
    """
    centres = levels.centres()
    sides = FINEST_SIDE * 2.0 ** levels.level_of_tokens().to(centres.dtype)
    anchors = torch.cat([centres, sides[:, None].expand_as(centres)], dim=-1)
    proposes = ((anchors > MARGIN) & (anchors < 1 - MARGIN)).all(-1)
    return anchors, proposes if levels.padding is None else proposes & ~levels.padding


Selector = Callable[[Tensor, int], Tensor]
"""Of scores (B, N) the indices of Q tokens, (B, Q); the second argument is Q."""


def highest(scores: Tensor, number: int) -> Tensor:
    """The `Selector` of models: the tokens with the highest scores, best first."""
    return scores.topk(number, dim=1).indices


_selector: ContextVar[Selector] = ContextVar("selector", default=highest)


@contextlib.contextmanager
def select_tokens_by(selector: Selector) -> Iterator[None]:
    """Within this context, `topk_tokens` selects by another function.

    Rounding decides between tokens whose scores are nearly the same, and queries follow from which tokens are selected.
    Two computations of a model are therefore comparable only with one selection, which this imposes on one of them.
    """
    token = _selector.set(selector)
    try:
        yield
    finally:
        _selector.reset(token)


@contextlib.contextmanager
def record_selected_tokens() -> Iterator[list[Tensor]]:
    """Within this context, what `topk_tokens` returns is appended to a list: indices (B, Q) of each call."""
    selected: list[Tensor] = []

    def select(scores: Tensor, number: int) -> Tensor:
        selected.append(highest(scores, number))
        return selected[-1]

    with select_tokens_by(select):
        yield selected


def topk_tokens(scores: Tensor, number: int, levels: TokenLevels) -> Tensor:
    """Which tokens have the highest scores.

    Args:
        scores: (B, N).
        number: how many.
        levels: where the tokens are. Published implementations take padding like any token; unless these levels are
            `as_published`, padding is taken only when there is nothing else (see `taken_padding`), so that what is
            detected in an image does not depend on the rest of the batch.

    Returns:
        (B, Q) indices, best first, where Q is `number`, or N if less.
    """
    return _selector.get()(without_padding(scores, levels), min(number, scores.shape[1]))


def without_padding(scores: Tensor, levels: TokenLevels) -> Tensor:
    """Scores of tokens, (B, N), with -inf where a token is padding that is not to be taken, see `topk_tokens`."""
    if levels.padding is None or levels.as_published:
        return scores
    return scores.masked_fill(levels.padding, float("-inf"))


def taken_padding(indices: Tensor, levels: TokenLevels) -> Tensor | None:
    """Which of the tokens that `topk_tokens` gave are padding, as an image with fewer tokens than queries has no more.

    Args:
        indices: (B, Q).
        levels: where the tokens are.

    Returns:
        (B, Q) bool, or None when each image has enough tokens, and where levels are `as_published`.
    """
    if levels.padding is None or levels.fewest_tokens is None or levels.fewest_tokens >= indices.shape[1]:
        return None
    return levels.padding.gather(1, indices)


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Of tokens (B, N, ...) those with indices (B, Q): (B, Q, ...)."""
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
    """What heads say about the tokens whose best class has the highest score.

    Args:
        proposed: the encoder's tokens.
        number: how many.
        memory: the encoder's result, which says where the tokens are, see `topk_tokens`.
        heads: with heads for the encoder.
        group: whose heads, see `DetectionHeads.propose`.
        selection: chooses other tokens by these scores and all boxes; without it, boxes are made for the best alone.

    Returns:
        Their classes and boxes, (B, Q, ...), best first, and which tokens they are, (B, Q).
    """
    with torch.no_grad():
        levels = memory.require_levels()
        if selection is None:
            best = topk_tokens(heads.score_tokens(proposed.tokens, group=group), number, levels)
        else:
            every = heads.propose(*proposed, group=group)
            best = selection(every.logits.max(-1).values, every.boxes, number, levels)
    tokens, anchors, proposes = proposed
    chosen = (gather_tokens(one.expand(tokens.shape[0], *one.shape[1:]), best) for one in (tokens, anchors, proposes))
    return heads.propose(*chosen, group=group)._replace(mask_features=memory.mask_features), best
