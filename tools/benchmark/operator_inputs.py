"""The sizes and the tensors with which deformable attention is timed.

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels of a head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detrex_lite.ops.deformable_attention import BACKENDS

from .errors import BenchmarkError, require_known, require_positive

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STRIDES = (8, 16, 32, 64)
_NOISE = 2.0  # cells: standard deviation of samples around where a layer begins to sample


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """The sizes of the operator, and how often it is timed.

    Attributes:
        shapes: L pairs (height, width); see `pyramid`.
        queries: Q; None for one per cell, as in an encoder.
        batch, heads, channels, points: B, H, C, P.
        dtype: of values and weights, of `DTYPES`. Locations are float32, as layers have them under autocast too.
        backends: names of `BACKENDS`, or "all" for those that this device has.
        repeats: rounds, in each of which every side runs once.
        bandwidth: of the memory in TB/s, for the bound; None to show no bound.

    Raises:
        BenchmarkError: for an unknown name or a size below 1.
    """

    shapes: Sequence[tuple[int, int]]
    queries: int | None = None
    batch: int = 1
    heads: int = 8
    channels: int = 32
    points: int = 4
    dtype: str = "float32"
    backends: Sequence[str] = ("all",)
    repeats: int = 10
    bandwidth: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_known("dtype", [self.dtype], DTYPES)
        require_known("backend", self.backends, ["all", *BACKENDS])
        sides = dict(shapes=min((side for shape in self.shapes for side in shape), default=0))
        sizes = ("batch", "heads", "channels", "points", "repeats")
        require_positive(**sides, **{name: getattr(self, name) for name in sizes}, queries=self.num_queries)

    @property
    def num_queries(self) -> int:
        return sum(height * width for height, width in self.shapes) if self.queries is None else self.queries


class OperatorInputs(NamedTuple):
    """The tensors of `multi_scale_deformable_attention`."""

    value: Tensor
    locations: Tensor
    weights: Tensor


def pyramid(height: int, width: int, strides: Sequence[int] = STRIDES) -> list[tuple[int, int]]:
    """The (height, width) of feature maps of an image, rounded up as padded convolutions do."""
    require_positive(height=height, width=width)
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """ "100x134,50x67" to pairs (height, width).

    Raises:
        BenchmarkError: when it is written otherwise.
    """
    shapes = []
    for part in text.split(","):
        height, cross, width = part.strip().partition("x")
        if not cross or not height.isdecimal() or not width.isdecimal():
            raise BenchmarkError(f"shapes are written HEIGHTxWIDTH,HEIGHTxWIDTH, as 100x134,50x67; got {text!r}")
        shapes.append((int(height), int(width)))
    return shapes


def make_inputs(settings: OperatorSettings, device: torch.device) -> OperatorInputs:
    """Tensors as a layer of Deformable DETR has them: samples are where it begins to sample, with noise.

    Queries stand in the cells' centres (anywhere, when their number is given); head h samples in the direction
    2 pi h / H, its point p at a distance of p + 1 cells of each level (Zhu et al., ICLR 2021, appendix A.4), and
    training has moved each sample by two cells or so. Uniformly random locations would miss every cache.
    """
    torch.manual_seed(settings.seed)
    batch, heads, points, levels = settings.batch, settings.heads, settings.points, len(settings.shapes)
    tokens = sum(height * width for height, width in settings.shapes)
    centres = cell_centres(settings.shapes) if settings.queries is None else torch.rand(settings.queries, 2)
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    directions = directions / directions.abs().amax(dim=-1, keepdim=True)  # onto a square, as the layer has it
    ring = directions[:, None, None] * torch.arange(1, points + 1)[:, None]  # (H, 1, P, 2)
    offsets = ring + _NOISE * torch.randn(batch, len(centres), heads, levels, points, 2)  # in cells
    sizes = torch.tensor([(width, height) for height, width in settings.shapes])[:, None]  # (L, 1, 2)
    locations = centres[:, None, None, None] + offsets / sizes
    logits = torch.randn(batch, len(centres), heads, levels * points)
    weights = logits.softmax(-1).view(batch, len(centres), heads, levels, points)
    value = torch.randn(batch, tokens, heads, settings.channels)
    dtype = DTYPES[settings.dtype]
    return OperatorInputs(value.to(device, dtype), locations.to(device), weights.to(device, dtype))


def cell_centres(shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(N, 2), x first, in 0..1: the centres of all cells, row by row, level after level."""
    centres = []
    for height, width in shapes:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        centres.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(centres)
