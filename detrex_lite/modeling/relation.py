"""Relations between queries (Relation-DETR, Hou et al., ECCV 2024, section 3.2).

Legend: B batch, Q queries, H heads.
"""

import torch
from torch import Tensor, nn

from ..layers import get_sine_pos_embed


class PositionRelation(nn.Module):
    """How boxes lie relative to each other, as an additive bias of self-attention.

    Four numbers of each pair of boxes, distances and ratios of sides in logarithms, are embedded by sines and projected
    to one channel for each head. Boxes get no gradients.

    Args:
        num_heads: H, of the self-attention.
        num_pos_feats: channels for each of the four numbers.
        temperature: of the sine embedding.
        scale: what the numbers are multiplied by.
        eps: added to sides, in the unit of the boxes.
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

    def forward(self, before: Tensor, boxes: Tensor) -> Tensor:
        """The bias.

        Args:
            before: (B, Q, 4) cxcywh in 0..1, the boxes of the layer before the last.
            boxes: (B, Q, 4), those of the last layer.

        Returns:
            (B, H, Q, Q), at least 0; rows are queries, compared by `before`, and columns are keys, by `boxes`.
        """
        with torch.no_grad():
            relations = self._relations(before, boxes)
            embedding = get_sine_pos_embed(
                relations, self.num_pos_feats, self.temperature, exchange_xy=False, scale=self.scale
            )
        for parameter in self.pos_proj.parameters():  # a quantised projection has none, and takes float32
            embedding = embedding.to(parameter.dtype)
        return self.pos_proj(embedding).relu().permute(0, 3, 1, 2)

    def _relations(self, before: Tensor, boxes: Tensor) -> Tensor:
        """(B, Q, Q, 4)."""
        rows, columns = before[:, :, None], boxes[:, None]
        row_sides, column_sides = rows[..., 2:] + self.eps, columns[..., 2:] + self.eps
        distances = torch.log1p((rows[..., :2] - columns[..., :2]).abs() / row_sides)
        return torch.cat([distances, torch.log(row_sides / column_sides)], dim=-1)
