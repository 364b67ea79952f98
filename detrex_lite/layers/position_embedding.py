"""Position embeddings of feature maps (DETR, Carion et al., ECCV 2020, appendix A.4) and of coordinates."""

import math

import torch
from torch import Tensor, nn


def get_sine_pos_embed(
    positions: Tensor,
    num_pos_feats: int = 128,
    temperature: float = 10000.0,
    exchange_xy: bool = True,
    scale: float = 2 * math.pi,
) -> Tensor:
    """Compute the sine embedding of coordinates, separately for each coordinate.

    Args:
        positions: (..., D) coordinates, usually in 0..1, x first.
        num_pos_feats: channels per coordinate; even channels are sines, odd ones cosines.
        temperature: base of the wavelengths, which run from 2 pi to 2 pi * temperature (over `scale`).
        exchange_xy: put the embedding of the second coordinate (y) before that of the first (x), as in the embeddings
            of feature maps.
        scale: factor of the coordinates.

    Returns:
        (..., D * num_pos_feats), in the dtype of `positions`.
    """
    channel = torch.arange(num_pos_feats, dtype=positions.dtype, device=positions.device)
    wavelength = temperature ** (2 * torch.div(channel, 2, rounding_mode="floor") / num_pos_feats)
    if exchange_xy and positions.shape[-1] > 1:
        positions = torch.cat([positions[..., 1:2], positions[..., :1], positions[..., 2:]], dim=-1)
    angles = positions[..., None] * scale / wavelength
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-3)


def get_grid_sine_pos_embed(
    height: int, width: int, num_channels: int, *, temperature: float = 10000.0, like: Tensor
) -> Tensor:
    """Compute the sine embedding of rows and columns, counted from 0, of RT-DETR's encoder (Zhao et al., CVPR 2024).

    The first half of the channels encodes the row, the second the column. Each half has all sines before all cosines,
    with wavelengths from 2 pi to 2 pi * temperature.

    Args:
        height, width: of the map, in cells.
        num_channels: C, a multiple of 4.
        temperature: base of the wavelengths.
        like: a tensor that gives the dtype and device of the result.

    Returns:
        (h * w, C), row by row.

    Raises:
        ValueError: when C is not a multiple of 4.
    """
    if num_channels % 4:
        raise ValueError(f"num_channels={num_channels}: sines and cosines of rows and columns need a multiple of 4")
    # Computed in float32 at least: neighbouring cells differ too little for half precision.
    dtype = torch.promote_types(like.dtype, torch.float32)
    channel = torch.arange(num_channels // 4, dtype=dtype, device=like.device)
    frequency = temperature ** (-channel / (num_channels // 4))

    def embed(number: int) -> Tensor:
        angles = torch.arange(number, dtype=dtype, device=like.device)[:, None] * frequency
        return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)

    rows, columns = embed(height)[:, None].expand(-1, width, -1), embed(width).expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


class PositionEmbeddingSine(nn.Module):
    """Sine embedding of the cells of a feature map, counted over the part without padding.

    Args:
        num_pos_feats: channels for each of y and x; the embedding has twice as many.
        temperature: base of the wavelengths.
        scale: factor of the normalised positions.
        eps: added to the divisor of the normalisation.
        offset: added to the counts before they are normalised (-0.5 gives cell centres).
        normalize: divide the counts by the height and width of the part without padding.
    """

    def __init__(
        self,
        num_pos_feats: int = 64,
        temperature: float = 10000.0,
        scale: float = 2 * math.pi,
        eps: float = 1e-6,
        offset: float = 0.0,
        normalize: bool = False,
    ):
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature
        self.scale = scale
        self.eps = eps
        self.offset = offset
        self.normalize = normalize

    def forward(self, mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """mask: (B, h, w) bool, True = padding. Returns (B, 2 * num_pos_feats, h, w) of `dtype`, y before x."""
        # Computed in float32 at least: neighbouring cells differ too little for half precision.
        inside = (~mask).to(torch.promote_types(dtype, torch.float32))
        y, x = inside.cumsum(1), inside.cumsum(2)
        if self.normalize:
            y = (y + self.offset) / (y[:, -1:, :] + self.eps)
            x = (x + self.offset) / (x[:, :, -1:] + self.eps)
        scale = self.scale if self.normalize else 1.0
        embedding = get_sine_pos_embed(torch.stack([x, y], dim=-1), self.num_pos_feats, self.temperature, scale=scale)
        return embedding.permute(0, 3, 1, 2).to(dtype)


class PositionEmbeddingLearned(nn.Module):
    """A learned vector per row and per column, shared by all images.

    Args:
        num_pos_feats: channels for each of x and y; the embedding has twice as many.
        row_num_embed: the largest number of rows that a feature map may have.
        col_num_embed: the largest number of columns.
    """

    def __init__(self, num_pos_feats: int = 256, row_num_embed: int = 50, col_num_embed: int = 50):
        super().__init__()
        self.row_embed = nn.Embedding(row_num_embed, num_pos_feats)
        self.col_embed = nn.Embedding(col_num_embed, num_pos_feats)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """mask: (B, h, w), of which only the shape is used. Returns (B, 2 * num_pos_feats, h, w), x before y.

        Raises:
            ValueError: when the feature map has more rows or columns than there are vectors.
        """
        batch, height, width = mask.shape
        rows, cols = self.row_embed.num_embeddings, self.col_embed.num_embeddings
        if height > rows or width > cols:
            raise ValueError(
                f"a feature map of {height}x{width} cells needs more learned positions than there are: "
                f"row_num_embed={rows}, col_num_embed={cols}"
            )
        x = self.col_embed.weight[:width].expand(height, width, -1)
        y = self.row_embed.weight[:height, None].expand(height, width, -1)
        embedding = torch.cat([x, y], dim=-1).permute(2, 0, 1)
        return embedding.to(dtype).expand(batch, -1, -1, -1)
