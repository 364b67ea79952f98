"""Which of the encoder's proposals become queries, where that is not simply those of highest score.

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
    """Proposals that do not overlap others of their level too much, of every level (DETA, Ouyang-Zhang et al., 2022).

    The best tokens of each level are considered, and where levels have fewer, the best others instead (or any others,
    where levels are `as_published`). They go through non-maximum suppression level by level. Each level then gives an
    equal share of the queries, and what is still missing are the best others that are left. When fewer are left than
    wanted, the best tokens are taken without any suppression.

    Args:
        iou_threshold: the largest IoU of two proposals of a level; boxes are clipped to the image before.
        num_per_level: how many tokens of each level are considered.

    Raises:
        ValueError: when called for more tokens than are considered.
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
                f"{number} queries are to be chosen, but num_per_level={self.num_per_level} in {num_levels} levels "
                "leaves fewer to choose from: raise num_per_level"
            )
        values, tokens = self._as_published(scores, levels) if levels.as_published else self._best(scores, levels)
        level = levels.level_of_tokens()[tokens]
        corners = box_cxcywh_to_xyxy(gather_tokens(boxes, tokens)).clamp(0, 1)
        left = nms_mask(corners, values, self.iou_threshold, level) & values.isfinite()
        in_share = left & _among_first(level, left, num_levels, number // num_levels)
        chosen = _first(in_share, left, number)
        return torch.where(left.sum(1, keepdim=True) >= number, tokens.gather(1, chosen), best)

    def _best(self, scores: Tensor, levels: TokenLevels) -> tuple[Tensor, Tensor]:
        """Scores (B, R) of the tokens that are considered, best first, and these; -inf where there are no more."""
        num_levels = len(levels.spatial_shapes)
        considered = num_levels * self.num_per_level
        values, tokens = without_padding(scores, levels).sort(dim=1, descending=True)
        is_token = values.isfinite()
        best_of_level = is_token & _among_first(
            levels.level_of_tokens()[tokens], is_token, num_levels, self.num_per_level
        )
        places = _first(best_of_level, is_token, considered)
        # In an exported graph an image may have any number of tokens: fewer are followed by none.
        values = F.pad(values, (0, considered), value=float("-inf")).gather(1, places)
        return values, F.pad(tokens, (0, considered)).gather(1, places)

    def _as_published(self, scores: Tensor, levels: TokenLevels) -> tuple[Tensor, Tensor]:
        """The same with padding, and levels filled up by any tokens, which may then come several times."""
        level, number = levels.level_of_tokens(), min(self.num_per_level, scores.shape[1])
        in_level = [scores.sigmoid() * (level == one) for one in range(len(levels.spatial_shapes))]
        tokens = torch.cat([probability.topk(number, dim=1).indices for probability in in_level], dim=1)
        values, order = scores.gather(1, tokens).sort(dim=1, descending=True)
        return values, tokens.gather(1, order)


def _among_first(level: Tensor, counted: Tensor, num_levels: int, number: int) -> Tensor:
    """Which are among the first of their level, (B, R), where those that are `counted` count."""
    of_level = counted[..., None] & (level[..., None] == torch.arange(num_levels, device=level.device))
    return of_level.cumsum(1).gather(2, level[..., None]).squeeze(-1) <= number


def _first(preferred: Tensor, others: Tensor, number: int) -> Tensor:
    """The places of the preferred ones and then of the first others, `number` together, in their order: (B, number).

    Args:
        preferred: (B, R) bool.
        others: (B, R) bool, True for the preferred ones as well. What is neither comes last.
        number: how many; R or more are places behind the last one.
    """
    places = torch.arange(preferred.shape[1], device=preferred.device)
    turn = places + preferred.shape[1] * (2 - preferred.long() - others.long())
    # A constant larger than any turn, which a compiled graph takes for images of all sizes.
    turn = F.pad(turn, (0, number), value=2**30)
    return turn.topk(number, dim=1, largest=False).indices.sort(dim=1).values


class DistinctProposals:
    """Proposals of all levels that do not overlap each other too much (DDQ, Zhang et al., CVPR 2023, section 3.2).

    When fewer are left by non-maximum suppression than wanted, the best others follow. Padding comes after everything
    else, also where levels are `as_published`: its proposals are all alike, and rounding would say which one is left.

    Args:
        iou_threshold: the largest IoU of two proposals that are left.
    """

    def __init__(self, iou_threshold: float = 0.8):
        self.iou_threshold = iou_threshold

    @torch.no_grad()
    def __call__(self, scores: Tensor, boxes: Tensor, number: int, levels: TokenLevels) -> Tensor:
        """See `ProposalSelection`."""
        if levels.padding is not None:
            scores = scores.masked_fill(levels.padding, float("-inf"))
        values, order = scores.sort(dim=1, descending=True)
        left = nms_mask(box_cxcywh_to_xyxy(gather_tokens(boxes, order)), values, self.iou_threshold)
        position = torch.arange(values.shape[1], device=values.device)
        turn = position + values.shape[1] * (2 - (left & values.isfinite()).long() - values.isfinite().long())
        return order.gather(1, turn.topk(min(number, values.shape[1]), dim=1, largest=False).indices)
