"""A set of axis-aligned boxes, with the interface of detectron2's Boxes as far as detectors use it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Boxes:
    """Boxes as (T, 4) absolute xyxy in pixels.

    Attributes:
        tensor: (T, 4), x0 y0 x1 y1 in pixels. Floats keep their dtype, integers become float32.

    Raises:
        ValueError: when the last dimension is not 4.
    """

    def __init__(self, tensor: Any):
        tensor = torch.as_tensor(tensor)
        if not tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.shape[-1] != 4:
            raise ValueError(f"boxes must have shape (T, 4) in xyxy, got {tuple(tensor.shape)}")
        self.tensor: Tensor = tensor

    @classmethod
    def cat(cls, boxes: list["Boxes"]) -> "Boxes":
        """Concatenate several sets of boxes, in order."""
        return cls(torch.cat([b.tensor for b in boxes]) if boxes else torch.zeros(0, 4))

    def area(self) -> Tensor:
        """Compute the areas in square pixels, (T,)."""
        width, height = self.tensor[:, 2] - self.tensor[:, 0], self.tensor[:, 3] - self.tensor[:, 1]
        return width * height

    def clip(self, size: tuple[int, int]) -> None:
        """Clip all corners to an image of `size` = (height, width), in place."""
        height, width = size
        x, y = self.tensor[:, 0::2].clamp(0, width), self.tensor[:, 1::2].clamp(0, height)
        self.tensor = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=-1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Return (T,) bool, True for boxes with both sides longer than `threshold` pixels."""
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return (sides > threshold).all(dim=-1)

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply x by `scale_x` and y by `scale_y`, in place."""
        self.tensor = self.tensor * self.tensor.new_tensor([scale_x, scale_y, scale_x, scale_y])

    def get_centers(self) -> Tensor:
        """Return the box centres, (T, 2), x y in pixels."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def to(self, *args: Any, **kwargs: Any) -> "Boxes":
        return type(self)(self.tensor.to(*args, **kwargs))

    def clone(self) -> "Boxes":
        return type(self)(self.tensor.clone())

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> "Boxes":
        """Select boxes by `item`; an int gives a set of one box."""
        selected = self.tensor[item]
        return type(self)(selected[None] if isinstance(item, int) else selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor)

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"
