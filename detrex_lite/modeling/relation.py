"""Relations between queries (Relation-DETR, Hou et al., ECCV 2024, section 3.2).

Legend: B batch, Q queries, H heads.
"""

import torch
from torch import Tensor, nn

from ..layers import get_sine_pos_embed


class PositionRelation(nn.Module):
    """The relative positions of boxes as an additive bias of self-attention.

    Four numbers of each pair of boxes, logarithms of distances and of ratios of sides, are embedded by sines and
    projected to one channel per head. Boxes get no gradients.

    Args:
        num_heads: H, of the self-attention.
        num_pos_feats: channels for each of the four numbers.
        temperature: of the sine embedding.
        scale: factor of the numbers.
        eps: added to sides, in the units of the boxes.
    """

    def __init__(
        self,
        num_heads: int = 8,
        num_pos_feats: int = 16,
        temperature: float = 10000.0,
        scale: float = 100.0,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature
        self.scale = scale
        self.eps = eps
        self.pos_proj = nn.Linear(4 * num_pos_feats, num_heads)

    def forward(self, previous_boxes: Tensor, boxes: Tensor) -> Tensor:
        """Compute the bias.

        Args:
            previous_boxes: (B, Q, 4) cxcywh in 0..1, the boxes of the second to last layer.
            boxes: (B, Q, 4) cxcywh in 0..1, the boxes of the last layer.

        Returns:
            (B, H, Q, Q), non-negative; rows are queries with `previous_boxes`, and columns are keys with `boxes`.
        """
        with torch.no_grad():
            relations = self._relations(previous_boxes, boxes)
            embedding = get_sine_pos_embed(
                relations, self.num_pos_feats, self.temperature, exchange_xy=False, scale=self.scale
            )
        for parameter in self.pos_proj.parameters():  # a quantised projection has none, and takes float32
            embedding = embedding.to(parameter.dtype)
        return self.pos_proj(embedding).relu().permute(0, 3, 1, 2)

    def _relations(self, previous_boxes: Tensor, boxes: Tensor) -> Tensor:
        """Compute the four numbers of each pair, (B, Q, Q, 4)."""
        rows, columns = previous_boxes[:, :, None], boxes[:, None]
        row_sides, column_sides = rows[..., 2:] + self.eps, columns[..., 2:] + self.eps
        distances = torch.log1p((rows[..., :2] - columns[..., :2]).abs() / row_sides)
        return torch.cat([distances, torch.log(row_sides / column_sides)], dim=-1)
