"""Random changes of colours."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from .epochs import checked_probability


class RandomPhotometricDistort(nn.Module):
    """Random brightness, contrast, saturation, hue and order of channels, as in SSD (Liu et al., ECCV 2016).

    torchvision has the same transform, but the hue takes a fifth of the time here; see `adjust_hue`.

    Args:
        brightness, contrast, saturation: ranges of the factors.
        hue: range of the shift as a fraction of the colour circle.
        p: the probability of each of the five operations.

    Raises:
        ValueError: when a range or the probability is out of range.
    """

    def __init__(
        self,
        *,
        brightness: Sequence[float] = (0.875, 1.125),
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue: Sequence[float] = (-0.05, 0.05),
        p: float = 0.5,
    ):
        super().__init__()
        ranges = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, (low, high) in ranges.items():
            lowest, highest = (-0.5, 0.5) if name == "hue" else (0, math.inf)
            if not lowest <= low <= high <= highest:
                raise ValueError(f"{name}={[low, high]} must be [low, high] with {lowest} <= low <= high <= {highest}")
        self.ranges = {name: (low, high) for name, (low, high) in ranges.items()}
        self.probability = checked_probability(p, "a photometric distortion")

    def forward(self, image: Any, target: Any) -> Any:
        chances = torch.rand(5).lt(self.probability).tolist()
        amounts = torch.rand(4).tolist()
        contrast_first = bool(torch.rand(()) < 0.5)
        order = torch.randperm(3).tolist()
        brightness, contrast, saturation, hue = (
            low + amount * (high - low) if chance else None
            for (low, high), amount, chance in zip(self.ranges.values(), amounts, chances[:4], strict=True)
        )
        if brightness is not None:
            image = v2.functional.adjust_brightness(image, brightness)
        if contrast is not None and contrast_first:
            image = v2.functional.adjust_contrast(image, contrast)
        if saturation is not None:
            image = v2.functional.adjust_saturation(image, saturation)
        if hue is not None:
            image = adjust_hue(image, hue)
        if contrast is not None and not contrast_first:
            image = v2.functional.adjust_contrast(image, contrast)
        if chances[4]:
            image = v2.functional.permute_channels(image, order)
        return image, target


def adjust_hue(image: torch.Tensor, shift: float) -> torch.Tensor:
    """Shift the hue, as torchvision's function of this name, but rounded to the nearest value.

    Args:
        image: (3, H, W) uint8 RGB.
        shift: as a fraction of the colour circle, -0.5 to 0.5.
    """
    pixels = image.as_subclass(torch.Tensor).reshape(3, -1)
    result = torch.empty_like(pixels)
    # Processed in chunks that fit into the processor's cache.
    for part, out in zip(pixels.split(32768, dim=1), result.split(32768, dim=1), strict=True):
        red, green, blue = part.float()
        high = torch.maximum(torch.maximum(red, green), blue)
        low = torch.minimum(torch.minimum(red, green), blue)
        chroma = high - low
        scale = chroma.clamp(min=1).reciprocal_()
        # The hue in sixths of the circle; grey pixels have none, and a chroma of 0.
        hue = torch.where(high == green, (blue - red).mul_(scale).add_(2), (red - green).mul_(scale).add_(4))
        hue = torch.where(high == red, (green - blue).mul_(scale), hue).add_(6 * shift)
        hue.sub_(torch.floor(hue / 6).mul_(6))
        # The distance of each channel from the lowest one, as a fraction of the chroma.
        shares = torch.stack(
            [(hue - 3).abs_().sub_(1), (hue - 2).abs_().neg_().add_(2), (hue - 4).abs_().neg_().add_(2)]
        )
        out.copy_(shares.clamp_(0, 1).mul_(chroma).add_(low).round_())
    result = result.view(image.shape)
    return tv_tensors.Image(result) if isinstance(image, tv_tensors.Image) else result
