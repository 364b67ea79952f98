"""Proposals from the encoder, and box refinement (Deformable DETR, Zhu et al., ICLR 2021, section 4.2 and A.4).

Legend: B batch, N tokens of all levels, Q queries, K classes, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers import Linear
from ..structures import inverse_sigmoid
from .multi_scale import TokenLevels

# A proposal of the finest level has sides of this share of the image's; each level doubles them.
FINEST_SIDE = 0.05
# Tokens whose centre is nearer to a border of the image (as a share of its sides) propose nothing.
MARGIN = 0.01


class Proposals(NamedTuple):
    """What each token of the encoder proposes.

    Attributes:
        memory: (B, N, C), projected; zero before the projection where nothing is proposed.
        logits: (B, N, K) class logits.
        box_logits: (B, N, 4) cxcywh before the sigmoid; infinite where nothing is proposed.
    """

    memory: Tensor
    logits: Tensor
    box_logits: Tensor


def best_tokens(scores: Tensor, number: int, *, padding: Tensor | None = None) -> Tensor:
    """Which tokens have the highest scores.

    Args:
        scores: (B, N).
        number: how many.
        padding: (B, N) bool, True = taken only when there is nothing else. Published implementations take padding like
            any token, so what they detect in an image may depend on what else is in the batch.

    Returns:
        (B, Q) indices, best first, where Q is `number`, or N if less.
    """
    if padding is not None:
        scores = scores.masked_fill(padding, float("-inf"))
    return scores.topk(min(number, scores.shape[1]), dim=1).indices


def take_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Of tokens (B, N, C) those with indices (B, Q): (B, Q, C)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


def take_best(tokens: Tensor, scores: Tensor, number: int, *, padding: Tensor | None = None) -> Tensor:
    """The tokens (B, N, C) with the highest scores: (B, Q, C); see `best_tokens`."""
    return take_tokens(tokens, best_tokens(scores, number, padding=padding))


class EncoderProposals(nn.Module):
    """Turns encoded tokens into proposals: each predicts a class and, around its own place, a box.

    Args:
        embed_dim: C.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.enc_output = Linear(embed_dim, embed_dim)
        self.enc_output_norm = nn.LayerNorm(embed_dim)

    def forward(self, memory: Tensor, levels: TokenLevels, class_head: nn.Module, box_head: nn.Module) -> Proposals:
        """Propose.

        Args:
            memory: (B, N, C), the encoder's result.
            levels: where its tokens are.
            class_head: (B, N, C) to logits (B, N, K).
            box_head: (B, N, C) to offsets (B, N, 4) of the proposals' logits.
        """
        anchors, proposes = token_anchors(levels)
        memory = self.enc_output_norm(self.enc_output(memory.masked_fill(~proposes[..., None], 0)))
        anchor_logits = torch.logit(anchors).masked_fill(~proposes[..., None], float("inf"))
        return Proposals(memory, class_head(memory), box_head(memory) + anchor_logits)


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


def refine(offsets: Tensor, reference: Tensor) -> Tensor:
    """Move a reference in logit space.

    Args:
        offsets: (..., 4), a box head's result.
        reference: (..., 4) cxcywh in 0..1; or (..., 2) points, for which the head gives width and height whole.

    Returns:
        (..., 4) cxcywh in 0..1, in float32 at least.
    """
    offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
    before = inverse_sigmoid(reference.to(offsets.dtype))
    if reference.shape[-1] == 2:
        before = torch.cat([before, torch.zeros_like(before)], dim=-1)
    return (offsets + before).sigmoid()
