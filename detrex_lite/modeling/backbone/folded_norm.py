"""Frozen batch normalisation inside the convolution before it: one pass over the feature map in the place of three."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FoldedBatchNorm2d(FrozenBatchNorm2d):
    """Keeps the statistics and affine parameters, under their usual names.

    Attributes:
        is_folded: whether the convolution before it applies them, see `fold_norms`; otherwise it does so itself.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__(num_features, eps)
        self.is_folded = False
        # Buffers, their versions, and the scale and shift that were computed of them.
        self._cache: tuple[tuple[Tensor, ...], list[int], tuple[Tensor, Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The versions of a copy's buffers begin anew, and may come to those that are remembered.
        return {**super().__getstate__(), "_cache": None}

    def forward(self, x: Tensor) -> Tensor:
        return x if self.is_folded else super().forward(x)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What channels are multiplied by and what is then added to them, (C,) each.

        It is computed anew only when a buffer has changed: the norms of a ResNet-50 would be 260 small operators in
        every pass, which a GPU takes longer to launch than to compute.
        """
        buffers = self.weight, self.bias, self.running_mean, self.running_var
        if torch.compiler.is_compiling() or any(one.is_inference() for one in buffers):
            return self._scale_and_shift()
        versions = [one._version for one in buffers]  # counts changes in place; others make new tensors
        cache = self._cache
        if cache is None or cache[1] != versions or any(a is not b for a, b in zip(cache[0], buffers, strict=True)):
            with torch.inference_mode(False), torch.no_grad():
                cache = self._cache = buffers, versions, self._scale_and_shift()
        return cache[2]

    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class FoldedConv2d(nn.Conv2d):
    """A convolution that applies the frozen normalisation after it.

    Exact, and its weight is trained as without: what is folded is computed from it in every pass.

    Args:
        convolution: whose weight and geometry it takes; without bias.
        norm: its normalisation.
    """

    def __init__(self, convolution: nn.Conv2d, norm: FoldedBatchNorm2d):
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            stride=convolution.stride,  # type: ignore[arg-type]
            padding=convolution.padding,  # type: ignore[arg-type]
            dilation=convolution.dilation,  # type: ignore[arg-type]
            groups=convolution.groups,
            bias=False,
            device="meta",
        )
        self.weight = convolution.weight
        self._norm = (norm,)  # in a tuple: a child of the block, not of this
        norm.is_folded = True

    def forward(self, x: Tensor) -> Tensor:
        (norm,) = self._norm
        scale, shift = norm.scale_and_shift()
        return self._conv_forward(x, self.weight * scale[:, None, None, None], shift)


def fold_norms(module: nn.Module) -> None:
    """Fold every `FoldedBatchNorm2d` below `module` into the convolution that stands before it among its siblings."""
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (name, convolution), (_, norm) in itertools.pairwise(children):
            if isinstance(norm, FoldedBatchNorm2d):
                assert type(convolution) is nn.Conv2d, f"{name} before a normalisation is no plain convolution"
                setattr(parent, name, FoldedConv2d(convolution, norm))
