"""Feature maps of several levels as one sequence of tokens, and the locations of its tokens in the image.

Legend: B batch, N tokens of all levels, L levels, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..structures import ImageBatch


@dataclass(frozen=True)
class TokenLevels:
    """The geometry of a sequence of tokens: the cells of L padded maps, row by row, usually finest level first.

    Coordinates have the precision of the maps, but float32 at least, because half precision does not resolve cells.

    Attributes:
        spatial_shapes: L pairs (height, width) of the padded maps.
        padding: (B, N) bool, True = padding, or None when no image is padded.
        valid_ratios: (B, L, 2), or (1, L, 2) when no image is padded: the fraction of each map's width and height that
            is not padding.
        as_published: how modules treat the padding; see `ImageBatch`.
        fewest_tokens: smallest number of tokens of an image that are not padding; None when all images have the same
            number: when no image is padded, and as published.
    """

    spatial_shapes: list[tuple[int, int]]
    padding: Tensor | None
    valid_ratios: Tensor
    as_published: bool = False
    fewest_tokens: int | None = None

    @classmethod
    def from_maps(cls, maps: Sequence[ImageBatch]) -> "TokenLevels":
        """Return the geometry of `maps`, finest first; their tokens are `flatten_maps` of their tensors."""
        shapes = [(level.tensor.shape[-2], level.tensor.shape[-1]) for level in maps]
        as_published = maps[0].as_published
        dtype = torch.promote_types(maps[0].tensor.dtype, torch.float32)
        if all(level.mask is None for level in maps):
            ratios = torch.ones(1, len(maps), 2, dtype=dtype, device=maps[0].tensor.device)
            return cls(shapes, None, ratios, as_published)
        masks = [level.mask_or_zeros().expand(level.tensor.shape[0], -1, -1) for level in maps]
        # Sizes are counted on the device, since taking them from Python would need another transfer.
        shares = [torch.stack([(~m[:, 0]).to(dtype).mean(1), (~m[:, :, 0]).to(dtype).mean(1)], -1) for m in masks]
        padding = torch.cat([mask.flatten(1) for mask in masks], 1)
        fewest = None
        if not as_published:  # never compiled with padding: a graph must not depend on the sizes of images
            areas = [[height * width for height, width in level.image_sizes] for level in maps]
            fewest = min(map(sum, zip(*areas, strict=True)))
        return cls(shapes, padding, torch.stack(shares, 1), as_published, fewest)

    def centres(self) -> Tensor:
        """Return the centres of cells, x first, in 0..1 of each image, (B, N, 2); B is 1 when no image is padded."""
        ratios = self.valid_ratios
        levels = []
        for level, (height, width) in enumerate(self.spatial_shapes):
            y, x = (torch.arange(side, dtype=ratios.dtype, device=ratios.device) + 0.5 for side in (height, width))
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
            # One division by an integer number of cells, as published: rounding decides between anchors with equal
            # overlap with an object.
            cells = torch.stack([ratios[:, level, 0] * width, ratios[:, level, 1] * height], dim=-1).round()
            levels.append(grid / cells[:, None])
        return torch.cat(levels, dim=1)

    def in_maps(self, reference: Tensor) -> Tensor:
        """Convert points or boxes of images to the reference points of deformable attention.

        Args:
            reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes in 0..1 of each image without its padding.

        Returns:
            (B, Q, L, 2) or (B, Q, L, 4), in 0..1 of each padded map.
        """
        ratios = self.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)
        return reference[:, :, None] * ratios[:, None]

    def reversed(self) -> "TokenLevels":
        """Return the geometry of the same maps in reverse order."""
        padding = self.padding
        if padding is not None:
            padding = torch.cat(padding.split(self.sizes(), dim=1)[::-1], dim=1)
        return replace(
            self, spatial_shapes=self.spatial_shapes[::-1], padding=padding, valid_ratios=self.valid_ratios.flip(1)
        )

    def sizes(self) -> list[int]:
        """Number of tokens of each level."""
        return [height * width for height, width in self.spatial_shapes]

    def level_of_tokens(self) -> Tensor:
        """Return the level, 0..L-1, of each token, (N,)."""
        device = self.valid_ratios.device
        return torch.cat([torch.full((size,), level, device=device) for level, size in enumerate(self.sizes())])

    def maps(self, tokens: Tensor) -> list[Tensor]:
        """Invert `flatten_maps`, for encoders that work on maps.

        Args:
            tokens: (B, N, C).

        Returns:
            L maps (B, C, h, w), in the order of the levels.
        """
        parts = tokens.split(self.sizes(), dim=1)
        return [
            part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, self.spatial_shapes, strict=True)
        ]


def flatten_maps(maps: Sequence[Tensor]) -> Tensor:
    """Flatten maps (B, C, h, w), finest first, to tokens (B, N, C); maps shared by all images are (1, C, h, w)."""
    batch = max(level.shape[0] for level in maps)  # a coarse level may have no padding where finer ones do
    return torch.cat([level.flatten(2).transpose(1, 2).expand(batch, -1, -1) for level in maps], dim=1)
