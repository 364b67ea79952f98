"""Convolutional blocks of necks and backbones, and their fusion for inference.

Legend: B batch, C channels, h x w cells of a feature map.
"""

import copy
from collections.abc import Callable, Iterable
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .copies import draw_children_again

Activation = nn.Module | Callable[[], nn.Module] | None
Model = TypeVar("Model", bound=nn.Module)


def make_activation(activation: Activation) -> nn.Module:
    """Create an activation: a copy of a module, or the result of a class or function; None gives the identity."""
    if activation is None:
        return nn.Identity()
    return copy.deepcopy(activation) if isinstance(activation, nn.Module) else activation()


class ConvNormAct(nn.Module):
    """A convolution, its normalisation and an activation.

    Args:
        in_channels, out_channels, kernel_size, stride, groups, bias: of the convolution, which is padded by half the
            kernel, so that an odd kernel with a stride of 1 keeps the size of the map.
        norm: creates a normalisation for a number of channels; None for no normalisation.
        activation: a module, which is copied, or a class or function that creates one; None for no activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
        activation: Activation = None,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=(kernel_size - 1) // 2, groups=groups, bias=bias
        )
        self.norm = nn.Identity() if norm is None else norm(out_channels)
        self.act = make_activation(activation)

    def reset_parameters(self) -> None:
        """Draw torch's initial values for the convolution; the norm starts as the identity."""
        draw_children_again(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, h, w). Returns (B, out_channels, h / stride, w / stride), rounded up with an odd kernel."""
        return self.act(self.norm(self.conv(x)))

    def convert_to_deploy(self) -> None:
        """Fold batch normalisation into the convolution; see the function `convert_to_deploy`."""
        if is_foldable(self.norm):
            self.conv, self.norm = fused_convolution([(self.conv, self.norm)]), nn.Identity()


class RepVGGBlock(nn.Module):
    """Parallel 3x3 and 1x1 convolutions, each with a norm, and an activation of their sum.

    RepVGG's block (Ding et al., CVPR 2021) without its identity branch, as RT-DETR has it. Deployed, it is one 3x3
    convolution.

    Args:
        in_channels, out_channels: C before and after.
        activation: see `ConvNormAct`.
    """

    branches: nn.ModuleList | None
    conv: nn.Conv2d  # exists in the deploy form only

    def __init__(self, in_channels: int, out_channels: int, activation: Activation = nn.SiLU):
        super().__init__()
        self.branches = nn.ModuleList(ConvNormAct(in_channels, out_channels, kernel_size) for kernel_size in (3, 1))
        self.act = make_activation(activation)

    def reset_parameters(self) -> None:
        """See `ConvNormAct.reset_parameters`."""
        draw_children_again(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, h, w). Returns (B, out_channels, h, w)."""
        if self.branches is None:
            return self.act(self.conv(x))
        dense, pointwise = self.branches
        return self.act(dense(x) + pointwise(x))

    def convert_to_deploy(self) -> None:
        """Fuse both branches into one 3x3 convolution; see the function `convert_to_deploy`."""
        if self.branches is not None:
            branches = cast("list[ConvNormAct]", list(self.branches))
            self.conv = fused_convolution([(branch.conv, branch.norm) for branch in branches])
            self.branches = None


class CSPRepLayer(nn.Module):
    """The sum of two 1x1 convolutions, one of which is followed by `RepVGGBlock`s.

    RT-DETR's fusion block (Zhao et al., CVPR 2024, figure 4) for two concatenated maps. CSP stands for cross stage
    partial connections (CSPNet, Wang et al., CVPRW 2020).

    Args:
        out_channels: C of the result.
        in_channels: of the input; twice `out_channels` when None, for two maps.
        num_blocks: number of consecutive `RepVGGBlock`s.
        expansion: hidden channels as a fraction of `out_channels`; unless it is 1, a third 1x1 convolution follows.
        activation: see `ConvNormAct`.
    """

    def __init__(
        self,
        out_channels: int,
        in_channels: int | None = None,
        num_blocks: int = 3,
        expansion: float = 1.0,
        activation: Activation = nn.SiLU,
    ):
        super().__init__()
        in_channels = 2 * out_channels if in_channels is None else in_channels
        hidden = int(out_channels * expansion)
        self.conv1 = ConvNormAct(in_channels, hidden, activation=activation)
        self.conv2 = ConvNormAct(in_channels, hidden, activation=activation)
        self.blocks = nn.Sequential(*(RepVGGBlock(hidden, hidden, activation) for _ in range(num_blocks)))
        self.conv3 = (
            nn.Identity() if hidden == out_channels else ConvNormAct(hidden, out_channels, activation=activation)
        )

    def reset_parameters(self) -> None:
        """See `ConvNormAct.reset_parameters`."""
        draw_children_again(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in_channels, h, w). Returns (B, out_channels, h, w)."""
        return self.conv3(self.blocks(self.conv1(x)) + self.conv2(x))


class RepNCSPELAN(nn.Module):
    """A block that splits the map in two and passes one half through two stages of `CSPRepLayer` and 3x3 convolution.

    D-FINE's fusion block (Peng et al., ICLR 2025, appendix A) for two concatenated maps. As in the efficient layer
    aggregation of YOLOv9 (GELAN, Wang et al., ECCV 2024), the result is computed from both halves and the results of
    both stages.

    Args:
        out_channels: C of the result, and of each half.
        in_channels: of the input; twice `out_channels` when None, for two maps.
        num_blocks: number of `RepVGGBlock`s in each `CSPRepLayer`.
        expansion: channels of a stage, as a fraction of half of `out_channels`, rounded down.
        activation: see `ConvNormAct`.
    """

    def __init__(
        self,
        out_channels: int,
        in_channels: int | None = None,
        num_blocks: int = 3,
        expansion: float = 1.0,
        activation: Activation = nn.SiLU,
    ):
        super().__init__()
        in_channels = 2 * out_channels if in_channels is None else in_channels
        hidden = round(expansion * out_channels // 2)
        self.conv1 = ConvNormAct(in_channels, 2 * out_channels, activation=activation)
        self.stages = nn.ModuleList(
            nn.Sequential(
                CSPRepLayer(hidden, channels, num_blocks, activation=activation),
                ConvNormAct(hidden, hidden, 3, activation=activation),
            )
            for channels in (out_channels, hidden)
        )
        self.conv2 = ConvNormAct(2 * out_channels + 2 * hidden, out_channels, activation=activation)

    def reset_parameters(self) -> None:
        """See `ConvNormAct.reset_parameters`."""
        draw_children_again(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in_channels, h, w). Returns (B, out_channels, h, w)."""
        results = list(self.conv1(x).chunk(2, dim=1))
        for stage in self.stages:
            results.append(stage(results[-1]))
        return self.conv2(torch.cat(results, dim=1))


class SCDown(nn.Module):
    """Downsampling by 2 with a 1x1 convolution and a strided depthwise convolution, both without activation.

    The spatial-channel decoupled downsampling of YOLOv10 (Wang et al., NeurIPS 2024), as D-FINE has it.

    Args:
        in_channels, out_channels: C before and after.
        kernel_size: of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__()
        self.pointwise = ConvNormAct(in_channels, out_channels)
        self.depthwise = ConvNormAct(out_channels, out_channels, kernel_size, stride=2, groups=out_channels)

    def reset_parameters(self) -> None:
        """See `ConvNormAct.reset_parameters`."""
        draw_children_again(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, h, w). Returns (B, out_channels, h / 2, w / 2), rounded up."""
        return self.depthwise(self.pointwise(x))


def convert_to_deploy(model: Model) -> Model:
    """Fuse the convolutions of a trained model for inference, in place; the results stay the same up to rounding.

    The model is set to evaluation mode. Every module with a method `convert_to_deploy` is converted: norms are folded
    into convolutions, parallel branches are fused, and detectors drop the parts that only training needs. Afterwards
    the model cannot be trained, and its state dict has different names, so load weights first. Converting a model twice
    is harmless.

    Args:
        model: a detector, or any module.

    Returns:
        `model`.
    """
    model.eval()
    for module in list(model.modules()):
        convert = getattr(module, "convert_to_deploy", None)
        if callable(convert):
            convert()
    return model


def is_foldable(norm: nn.Module) -> bool:
    """Whether a norm scales and shifts channels by stored values, as batch normalisation does in evaluation."""
    return getattr(norm, "running_var", None) is not None


def fused_convolution(branches: Iterable[tuple[nn.Module, nn.Module]]) -> nn.Conv2d:
    """Fuse several parallel convolutions, each followed by a norm, into one that computes their sum.

    Args:
        branches: (convolution, norm) pairs, which must agree in everything but the kernel size: smaller odd kernels are
            zero-padded to the size of the first one. `is_foldable` must accept the norms.
    """
    kernels, biases = [], []
    first: nn.Conv2d | None = None
    for convolution, norm in branches:
        assert isinstance(convolution, nn.Conv2d), f"{type(convolution).__name__} is not a convolution"
        first = first or convolution
        weight, bias = _folded(convolution, norm)
        missing = (first.kernel_size[0] - convolution.kernel_size[0]) // 2
        kernels.append(F.pad(weight, [missing] * 4))
        biases.append(bias)
    assert first is not None
    fused = nn.Conv2d(
        first.in_channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        dilation=first.dilation,  # type: ignore[arg-type]
        groups=first.groups,
        device="meta",
    )
    reference = first.weight
    fused.weight = nn.Parameter(torch.stack(kernels).sum(0).to(reference.dtype), requires_grad=False)
    fused.bias = nn.Parameter(torch.stack(biases).sum(0).to(reference.dtype), requires_grad=False)
    if reference.is_contiguous(memory_format=torch.channels_last):
        fused.to(memory_format=torch.channels_last)
    return fused.train(first.training)


@torch.no_grad()
def _folded(convolution: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Compute the weight and bias, in float64, of a convolution that includes the norm."""
    values = {name: value.double() for name, value in norm.state_dict().items()}
    scale = (values["running_var"] + cast(float, norm.eps)).rsqrt() * values.get("weight", 1.0)
    conv_bias = 0.0 if convolution.bias is None else convolution.bias.double()
    bias = (conv_bias - values["running_mean"]) * scale + values.get("bias", 0.0)
    return convolution.weight.double() * scale[:, None, None, None], bias
