"""Selections of the encoder's proposals other than those with the highest scores.

Legend: B batch, N tokens of all levels, L levels, Q queries, R candidates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.nms import nms_mask
from ...structures import box_cxcywh_to_xyxy
from ..multi_scale import TokenLevels
from .proposals import gather_tokens, highest, without_padding


class LevelwiseNMS:
    """Selection by non-maximum suppression within each level (DETA, Ouyang-Zhang et al., 2022).

    The candidates are the best tokens of each level; levels with fewer tokens are filled up with the best tokens of
    other levels (or with arbitrary tokens, if levels are `as_published`). After non-maximum suppression, each level
    contributes an equal share of the queries, and the best of the other kept tokens fill up the rest. If fewer tokens
    are kept than requested, the best tokens are selected without suppression.

    Args:
        iou_threshold: the largest IoU of two selected proposals of a level; boxes are clipped to the image before.
        num_per_level: number of candidates of each level.

    Raises:
        ValueError: when more tokens are requested than there are candidates.
    """

    def __init__(self, iou_threshold: float = 0.9, num_per_level: int = 1000):
        self.iou_threshold = iou_threshold
        self.num_per_level = num_per_level

    @torch.no_grad()
    def __call__(self, scores: Tensor, boxes: Tensor, number: int, levels: TokenLevels) -> Tensor:
        """See `ProposalSelection`."""
        best = highest(without_padding(scores, levels), min(number, scores.shape[1]))
        number, num_levels = best.shape[1], len(levels.spatial_shapes)
        if number > num_levels * self.num_per_level:
            raise ValueError(
                f"{number} queries are requested, but num_per_level={self.num_per_level} in {num_levels} levels gives "
                "fewer candidates: raise num_per_level"
            )
        values, tokens = self._as_published(scores, levels) if levels.as_published else self._best(scores, levels)
        level = levels.level_of_tokens()[tokens]
        corners = box_cxcywh_to_xyxy(gather_tokens(boxes, tokens)).clamp(0, 1)
        kept = nms_mask(corners, values, self.iou_threshold, level) & values.isfinite()
        in_share = kept & _among_first(level, kept, num_levels, number // num_levels)
        chosen = _first(in_share, kept, number)
        return torch.where(kept.sum(1, keepdim=True) >= number, tokens.gather(1, chosen), best)

    def _best(self, scores: Tensor, levels: TokenLevels) -> tuple[Tensor, Tensor]:
        """Return scores (B, R) and indices of the candidates, best first; missing candidates have a score of -inf."""
        num_levels = len(levels.spatial_shapes)
        considered = num_levels * self.num_per_level
        values, tokens = without_padding(scores, levels).sort(dim=1, descending=True)
        is_token = values.isfinite()
        best_of_level = is_token & _among_first(
            levels.level_of_tokens()[tokens], is_token, num_levels, self.num_per_level
        )
        positions = _first(best_of_level, is_token, considered)
        # In an exported graph an image may have any number of tokens, so missing tokens are padded.
        values = F.pad(values, (0, considered), value=float("-inf")).gather(1, positions)
        return values, F.pad(tokens, (0, considered)).gather(1, positions)

    def _as_published(self, scores: Tensor, levels: TokenLevels) -> tuple[Tensor, Tensor]:
        """As `_best`, but with padding, and levels filled up by arbitrary tokens, possibly repeatedly."""
        level, number = levels.level_of_tokens(), min(self.num_per_level, scores.shape[1])
        in_level = [scores.sigmoid() * (level == index) for index in range(len(levels.spatial_shapes))]
        tokens = torch.cat([probability.topk(number, dim=1).indices for probability in in_level], dim=1)
        values, order = scores.gather(1, tokens).sort(dim=1, descending=True)
        return values, tokens.gather(1, order)


def _among_first(level: Tensor, counted: Tensor, num_levels: int, number: int) -> Tensor:
    """Mark the first `number` entries of each level, (B, R), among those that are `counted`."""
    of_level = counted[..., None] & (level[..., None] == torch.arange(num_levels, device=level.device))
    return of_level.cumsum(1).gather(2, level[..., None]).squeeze(-1) <= number


def _first(preferred: Tensor, allowed: Tensor, number: int) -> Tensor:
    """Return the sorted positions of `number` entries, (B, number): preferred entries, then the first allowed ones.

    Args:
        preferred: (B, R) bool.
        allowed: (B, R) bool, also True for preferred entries. Entries that are neither come last.
        number: number of entries; positions from R on are returned when there are not enough.
    """
    positions = torch.arange(preferred.shape[1], device=preferred.device)
    rank = positions + preferred.shape[1] * (2 - preferred.long() - allowed.long())
    # The padding is a constant above all ranks, so that a compiled graph serves images of all sizes.
    rank = F.pad(rank, (0, number), value=2**30)
    return rank.topk(number, dim=1, largest=False).indices.sort(dim=1).values


class DistinctProposals:
    """Selection by non-maximum suppression over all levels (DDQ, Zhang et al., CVPR 2023, section 3.2).

    If fewer proposals are kept than requested, the best suppressed ones follow. Padding always comes last, even if
    levels are `as_published`: all proposals of padding are alike, so rounding would decide which of them is kept.

    Args:
        iou_threshold: the largest IoU of two kept proposals.
    """

    def __init__(self, iou_threshold: float = 0.8):
        self.iou_threshold = iou_threshold

    @torch.no_grad()
    def __call__(self, scores: Tensor, boxes: Tensor, number: int, levels: TokenLevels) -> Tensor:
        """See `ProposalSelection`."""
        if levels.padding is not None:
            scores = scores.masked_fill(levels.padding, float("-inf"))
        values, order = scores.sort(dim=1, descending=True)
        kept = nms_mask(box_cxcywh_to_xyxy(gather_tokens(boxes, order)), values, self.iou_threshold)
        position = torch.arange(values.shape[1], device=values.device)
        rank = position + values.shape[1] * (2 - (kept & values.isfinite()).long() - values.isfinite().long())
        return order.gather(1, rank.topk(min(number, values.shape[1]), dim=1, largest=False).indices)
