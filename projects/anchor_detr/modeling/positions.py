"""Position embeddings shared by cells and query points (Anchor DETR, Wang et al., AAAI 2022, section 3.3).

Legend: B batch, Q points, h x w cells, C channels.
"""

import torch
from torch import Tensor, nn

from detrex_lite.layers import MLP, get_sine_pos_embed


class PointPositionEmbedding(nn.Module):
    """Sine embeddings followed by an MLP: one for the pair (x, y), and one for a single coordinate.

    Args:
        num_pos_feats: half of C: the number of channels of x, and of y, in the embedding of the pair.
        temperature: base of the wavelengths.
        decoupled: embed x and y of cells separately, as `RowColumnDecoupledAttention` expects; False embeds them as a
            pair, for attention among all cells.
    """

    def __init__(self, *, num_pos_feats: int = 128, temperature: float = 10000.0, decoupled: bool = True):
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature
        channels = 2 * num_pos_feats
        self.point_head = MLP(channels, channels, channels, num_layers=2)
        self.axis_head = MLP(channels, channels, channels, num_layers=2) if decoupled else None

    def forward(self, mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Embed the centres of the cells, in 0..1 of the unpadded part of the map.

        Args:
            mask: (B, h, w) bool, True = padding, which is at the right and the bottom.
            dtype: of the result.

        Returns:
            (B, 2 C, h, w), the embedding of x followed by that of y; (B, C, h, w) unless decoupled.
        """
        # Half precision cannot represent the differences between neighbouring cells: compute in float32 at least.
        precision = torch.promote_types(dtype, torch.float32)
        x, y = (_centres(~padding, precision) for padding in (mask[:, 0], mask[:, :, 0]))
        (height, width) = mask.shape[1:]
        if self.axis_head is None:
            points = torch.stack([x[:, None].expand(-1, height, -1), y[..., None].expand(-1, -1, width)], dim=-1)
            return self._of_points(points).permute(0, 3, 1, 2).to(dtype)
        of_x, of_y = (self._of_axis(axis).transpose(1, 2) for axis in (x, y))
        rows, columns = of_x[:, :, None].expand(-1, -1, height, -1), of_y[..., None].expand(-1, -1, -1, width)
        return torch.cat([rows, columns], dim=1).to(dtype)

    def of_points(self, points: Tensor) -> Tensor:
        """Embed points.

        Args:
            points: (Q, 2), x first, in 0..1.

        Returns:
            (Q, 3 C), embeddings of the point, of x and of y; (Q, C), the embedding of the point, unless decoupled.
        """
        of_points = self._of_points(points)
        if self.axis_head is None:
            return of_points
        return torch.cat([of_points, self._of_axis(points[:, 0]), self._of_axis(points[:, 1])], dim=-1)

    def _of_points(self, points: Tensor) -> Tensor:
        return _through(self.point_head, get_sine_pos_embed(points, self.num_pos_feats, self.temperature))

    def _of_axis(self, coordinate: Tensor) -> Tensor:
        assert self.axis_head is not None
        embedding = get_sine_pos_embed(coordinate[..., None], 2 * self.num_pos_feats, self.temperature)
        return _through(self.axis_head, embedding)


def _centres(inside: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, n), the centres of n cells in a row, in 0..1 of the cells inside the image, which come first."""
    count = inside.to(dtype).cumsum(1)
    return (count - 0.5) / count[:, -1:]


def _through(head: MLP, embedding: Tensor) -> Tensor:
    return head(embedding.to(next(head.parameters()).dtype))
