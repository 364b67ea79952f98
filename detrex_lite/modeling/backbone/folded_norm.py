"""Frozen batch normalisation inside the convolution before it: one pass over the feature map in the place of three."""

import itertools

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FoldedBatchNorm2d(FrozenBatchNorm2d):
    """Keeps the statistics and affine parameters, under their usual names; the convolution before it applies them."""

    def forward(self, x: Tensor) -> Tensor:
        return x


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

    def forward(self, x: Tensor) -> Tensor:
        (norm,) = self._norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return self._conv_forward(x, self.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale)


def fold_norms(module: nn.Module) -> None:
    """Fold every `FoldedBatchNorm2d` below `module` into the convolution that stands before it among its siblings."""
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (name, convolution), (_, norm) in itertools.pairwise(children):
            if isinstance(norm, FoldedBatchNorm2d):
                assert type(convolution) is nn.Conv2d, f"{name} before a normalisation is no plain convolution"
                setattr(parent, name, FoldedConv2d(convolution, norm))
