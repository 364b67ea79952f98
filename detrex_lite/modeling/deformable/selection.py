"""Which of the encoder's proposals become queries, where that is not simply those of highest score.

Legend: B batch, N tokens of all levels, L levels, Q queries, R candidates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import nms_mask
from ...structures import box_cxcywh_to_xyxy
from ..multi_scale import TokenLevels
from .proposals import gather_tokens, topk_tokens, without_padding


class LevelwiseNMS:
    """Proposals that do not overlap others of their level too much, of every level (DETA, Ouyang-Zhang et al., 2022).

    The best tokens of each level go through non-maximum suppression among themselves. Each level then gives an equal
    share of the queries, and what is still missing are the best others that are left. When fewer are left than
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
        best = topk_tokens(scores, number, levels)
        number, num_levels = best.shape[1], len(levels.spatial_shapes)
        if number > num_levels * self.num_per_level:
            raise ValueError(
                f"{number} queries are to be chosen, but num_per_level={self.num_per_level} in {num_levels} levels "
                "leaves fewer to choose from: raise num_per_level"
            )
        candidates, values = self._candidates(without_padding(scores, levels), levels)
        level = torch.arange(num_levels, device=scores.device).repeat_interleave(self.num_per_level).expand_as(values)
        values, order = values.sort(dim=1, descending=True)
        candidates, level = candidates.gather(1, order), level.gather(1, order)
        corners = box_cxcywh_to_xyxy(gather_tokens(boxes, candidates)).clamp(0, 1)
        left = nms_mask(corners, values, self.iou_threshold, level) & values.isfinite()
        of_level = left[..., None] & (level[..., None] == torch.arange(num_levels, device=level.device))  # (B, R, L)
        in_share = left & (of_level.cumsum(1).gather(2, level[..., None]).squeeze(-1) <= number // num_levels)
        position = torch.arange(values.shape[1], device=values.device)
        # Those of the shares come first, then the others that are left, both in the order of score.
        turn = position + values.shape[1] * (2 - left.long() - in_share.long())
        chosen = turn.topk(number, dim=1, largest=False).indices.sort(dim=1).values
        enough = left.sum(1, keepdim=True) >= number
        return torch.where(enough, candidates.gather(1, chosen), best)

    def _candidates(self, scores: Tensor, levels: TokenLevels) -> tuple[Tensor, Tensor]:
        """(B, R) tokens and their scores, of each level `num_per_level`; -inf where the level has no more tokens."""
        tokens, values, first = [], [], 0
        for height, width in levels.spatial_shapes:
            size = height * width
            # A level may have fewer, and in an exported graph any number.
            padded = F.pad(scores[:, first : first + size], (0, self.num_per_level), value=float("-inf"))
            value, token = padded.topk(self.num_per_level, dim=1)
            tokens.append(torch.where(value.isfinite(), token + first, 0))
            values.append(value)
            first = first + size
        return torch.cat(tokens, dim=1), torch.cat(values, dim=1)


class DistinctProposals:
    """Proposals of all levels that do not overlap each other too much (DDQ, Zhang et al., CVPR 2023, section 3.2).

    When fewer are left by non-maximum suppression than wanted, the best others follow.

    Args:
        iou_threshold: the largest IoU of two proposals that are left.
    """

    def __init__(self, iou_threshold: float = 0.8):
        self.iou_threshold = iou_threshold

    @torch.no_grad()
    def __call__(self, scores: Tensor, boxes: Tensor, number: int, levels: TokenLevels) -> Tensor:
        """See `ProposalSelection`."""
        values, order = without_padding(scores, levels).sort(dim=1, descending=True)
        left = nms_mask(box_cxcywh_to_xyxy(gather_tokens(boxes, order)), values, self.iou_threshold)
        position = torch.arange(values.shape[1], device=values.device)
        turn = position + values.shape[1] * (2 - (left & values.isfinite()).long() - values.isfinite().long())
        return order.gather(1, turn.topk(min(number, values.shape[1]), dim=1, largest=False).indices)
