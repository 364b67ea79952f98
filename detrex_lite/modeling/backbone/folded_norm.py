"""Frozen batch normalisation folded into the preceding convolution: one pass over the feature map instead of three."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FoldedBatchNorm2d(FrozenBatchNorm2d):
    """Frozen batch normalisation that keeps its statistics and affine parameters under their usual names.

    Attributes:
        is_folded: whether the preceding convolution applies the normalisation, see `fold_norms`.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__(num_features, eps)
        self.is_folded = False
        # Cache: the buffers, their versions, and the scale and shift computed from them.
        self._cache: tuple[tuple[Tensor, ...], list[int], tuple[Tensor, Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The version counters of a copy start again, and could reach the cached versions by coincidence.
        return {**super().__getstate__(), "_cache": None}

    def forward(self, x: Tensor) -> Tensor:
        return x if self.is_folded else super().forward(x)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the scale and shift of the channels, (C,) each.

        They are recomputed only when a buffer has changed: for the norms of a ResNet-50 they would be 260 small
        operators in every pass, which a GPU takes longer to launch than to compute.
        """
        buffers = self.weight, self.bias, self.running_mean, self.running_var
        if torch.compiler.is_compiling() or any(buffer.is_inference() for buffer in buffers):
            return self._scale_and_shift()
        versions = [buffer._version for buffer in buffers]  # counts in-place changes; other changes replace the tensors
        cache = self._cache
        if cache is None or cache[1] != versions or any(a is not b for a, b in zip(cache[0], buffers, strict=True)):
            with torch.inference_mode(False), torch.no_grad():
                cache = self._cache = buffers, versions, self._scale_and_shift()
        return cache[2]

    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class FoldedConv2d(nn.Conv2d):
    """A convolution that includes the frozen normalisation after it.

    The result is exact, and the weight is trained as usual: the folded weight is computed from it in every pass.

    Args:
        convolution: provides the weight and the geometry; without bias.
        norm: the normalisation that follows it.
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
        self._norm = (norm,)  # a tuple hides the norm from nn.Module: it is registered in the parent block
        norm.is_folded = True

    def forward(self, x: Tensor) -> Tensor:
        (norm,) = self._norm
        scale, shift = norm.scale_and_shift()
        return self._conv_forward(x, self.weight * scale[:, None, None, None], shift)


def fold_norms(module: nn.Module) -> None:
    """Fold every `FoldedBatchNorm2d` inside `module` into the convolution before it in the same parent module."""
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (name, convolution), (_, norm) in itertools.pairwise(children):
            if isinstance(norm, FoldedBatchNorm2d):
                assert type(convolution) is nn.Conv2d, f"{name} before a normalisation is not a plain convolution"
                setattr(parent, name, FoldedConv2d(convolution, norm))
