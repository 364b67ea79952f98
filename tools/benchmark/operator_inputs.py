"""The sizes and the input tensors for timing deformable attention.

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
_NOISE = 2.0  # cells: standard deviation of sampling points around those of an untrained layer


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """The sizes of the operator, and the number of rounds.

    Attributes:
        shapes: L pairs (height, width); see `pyramid`.
        queries: Q; None for one per cell, as in an encoder.
        batch, heads, channels, points: B, H, C, P.
        dtype: dtype of values and weights, one of `DTYPES`. Locations are float32, as in layers under autocast.
        backends: names of `BACKENDS`, or "all" for those that are available on this device.
        repeats: number of rounds, in each of which every side runs once.
        bandwidth: memory bandwidth in TB/s, for the bound; None to show no bound.
        seed: seed of the inputs.

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
    """The (height, width) of an image's feature maps, rounded up as in padded convolutions."""
    require_positive(height=height, width=width)
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """Parse "100x134,50x67" into pairs (height, width).

    Raises:
        BenchmarkError: when the text has another format.
    """
    shapes = []
    for part in text.split(","):
        height, cross, width = part.strip().partition("x")
        if not cross or not height.isdecimal() or not width.isdecimal():
            raise BenchmarkError(f"shapes must be HEIGHTxWIDTH,HEIGHTxWIDTH, such as 100x134,50x67; got {text!r}")
        shapes.append((int(height), int(width)))
    return shapes


def make_inputs(settings: OperatorSettings, device: torch.device) -> OperatorInputs:
    """Realistic inputs of a Deformable DETR layer: its initial sampling points with noise.

    Reference points are the centres of cells (random points if `queries` is a number). Head h samples in the direction
    2 pi h / H, its point p at a distance of p + 1 cells of each level (Zhu et al., ICLR 2021, appendix A.4). The noise
    of about two cells stands for the effect of training. Uniformly random locations would miss every cache.
    """
    torch.manual_seed(settings.seed)
    batch, heads, points, levels = settings.batch, settings.heads, settings.points, len(settings.shapes)
    tokens = sum(height * width for height, width in settings.shapes)
    centres = cell_centres(settings.shapes) if settings.queries is None else torch.rand(settings.queries, 2)
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    directions = directions / directions.abs().amax(dim=-1, keepdim=True)  # projected onto a square, as in the layer
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
