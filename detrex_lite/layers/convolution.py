"""Convolutional blocks of necks and backbones, and how they are fused for inference.

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
    """An activation for one place: a copy of a module, or what a class or function makes; None for the identity."""
    if activation is None:
        return nn.Identity()
    return copy.deepcopy(activation) if isinstance(activation, nn.Module) else activation()


class ConvNormAct(nn.Module):
    """A convolution, its normalisation and an activation.

    Args:
        in_channels, out_channels, kernel_size, stride, groups, bias: of the convolution, which is padded by half its
            kernel, so that a stride of 1 keeps the size of maps with an odd kernel.
        norm: makes a normalisation for a number of channels; None for none.
        activation: a module, of which a copy is taken, or a class or function that makes one; None for none.
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
        """Draw torch's initial values for convolutions; norms begin as the identity."""
        draw_children_again(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, h, w). Returns (B, out_channels, h / stride, w / stride), rounded up with an odd kernel."""
        return self.act(self.norm(self.conv(x)))

    def convert_to_deploy(self) -> None:
        """Fold batch normalisation into the convolution, see the function `convert_to_deploy`."""
        if is_foldable(self.norm):
            self.conv, self.norm = fused_convolution([(self.conv, self.norm)]), nn.Identity()


class RepVGGBlock(nn.Module):
    """A 3x3 and a 1x1 convolution side by side, each with its norm, and an activation of their sum.

    RepVGG's block (Ding et al., CVPR 2021) without its identity branch, as RT-DETR has it. Deployed, it is one 3x3
    convolution.

    Args:
        in_channels, out_channels: C before and after.
        activation: see `ConvNormAct`.
    """

    branches: nn.ModuleList | None
    conv: nn.Conv2d  # once deployed

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
        """Make one 3x3 convolution of both branches, see the function `convert_to_deploy`."""
        if self.branches is not None:
            branches = cast("list[ConvNormAct]", list(self.branches))
            self.conv = fused_convolution([(branch.conv, branch.norm) for branch in branches])
            self.branches = None


class CSPRepLayer(nn.Module):
    """Two 1x1 convolutions, `RepVGGBlock`s after one of them, and their sum.

    RT-DETR's fusion block (Zhao et al., CVPR 2024, figure 4), for two maps, which come concatenated. CSP stands for
    cross stage partial connections (CSPNet, Wang et al., CVPRW 2020).

    Args:
        out_channels: C of the result.
        in_channels: of the input; twice `out_channels` when None, for two maps.
        num_blocks: `RepVGGBlock`s in a row.
        expansion: channels inside, as a share of `out_channels`; below 1, a third 1x1 convolution follows.
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
    """A map in two halves, of which one goes on through two `CSPRepLayer`s, each followed by a 3x3 convolution.

    D-FINE's fusion block (Peng et al., ICLR 2025, appendix A), for two maps, which come concatenated: the efficient
    layer aggregation of YOLOv9 (GELAN, Wang et al., ECCV 2024), of both halves and the results of both stages.

    Args:
        out_channels: C of the result; inside, a half has as many.
        in_channels: of the input; twice `out_channels` when None, for two maps.
        num_blocks: `RepVGGBlock`s of each `CSPRepLayer`.
        expansion: channels of a stage, as a share of half of `out_channels`; rounded down.
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
    """A map of half the size: a 1x1 convolution, then a depthwise strided one, both without activation.

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
    """Make a trained model's convolutions fewer and faster, in place, with the same results up to rounding.

    The model goes to evaluation mode. Every module that has a method `convert_to_deploy` is converted: norms are folded
    into convolutions, parallel branches become one, and detectors drop what detections do without. It cannot be trained
    any more, and its state dict has other names: load weights before. Converting again changes nothing.

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
    """Whether a norm multiplies and shifts channels by what it has stored, as batch normalisation in evaluation."""
    return getattr(norm, "running_var", None) is not None


def fused_convolution(branches: Iterable[tuple[nn.Module, nn.Module]]) -> nn.Conv2d:
    """One convolution that computes the sum of several, each with the norm after it.

    Args:
        branches: (convolution, norm) pairs of one geometry, but for kernels: smaller odd ones are padded with zeros to
            the size of the first. Norms are those that `is_foldable` accepts.
    """
    kernels, biases = [], []
    first: nn.Conv2d | None = None
    for convolution, norm in branches:
        assert isinstance(convolution, nn.Conv2d), f"{type(convolution).__name__} is no convolution"
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
    like = first.weight
    fused.weight = nn.Parameter(torch.stack(kernels).sum(0).to(like.dtype), requires_grad=False)
    fused.bias = nn.Parameter(torch.stack(biases).sum(0).to(like.dtype), requires_grad=False)
    if like.is_contiguous(memory_format=torch.channels_last):
        fused.to(memory_format=torch.channels_last)
    return fused.train(first.training)


@torch.no_grad()
def _folded(convolution: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of a convolution that applies the norm as well."""
    values = {name: value.double() for name, value in norm.state_dict().items()}
    scale = (values["running_var"] + cast(float, norm.eps)).rsqrt() * values.get("weight", 1.0)
    before = 0.0 if convolution.bias is None else convolution.bias.double()
    bias = (before - values["running_mean"]) * scale + values.get("bias", 0.0)
    return convolution.weight.double() * scale[:, None, None, None], bias
