"""ResNet backbones (He et al., CVPR 2016) on torchvision's implementation, with detectron2's stage names.

Differences from torchvision: batch normalisation is frozen by default, stages that no output needs are not built, and
the result is a dict of feature maps. Parameter names are torchvision's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from ...checkpoint import load_checkpoint
from ...errors import did_you_mean
from .folded_norm import FoldedBatchNorm2d, fold_norms
from .freezing import FreezableBackbone

STAGES = ("res2", "res3", "res4", "res5")
DEPTHS = (18, 34, 50, 101, 152)
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "FrozenBN": FoldedBatchNorm2d,  # statistics and affine parameters of the pre-training, never updated
    "BN": nn.BatchNorm2d,  # for training from scratch with enough images per process
    "SyncBN": nn.SyncBatchNorm,
    "GN": lambda channels: nn.GroupNorm(32, channels),  # for training from scratch with few images
}


class ResNet(FreezableBackbone):
    """A ResNet that returns the feature maps of any of its four stages.

    Args:
        depth: 18, 34, 50, 101 or 152.
        out_features: the stages to return, out of "res2" (stride 4) to "res5" (stride 32, or 16 with `dilation`).
        norm: "FrozenBN", "BN", "SyncBN" or "GN".
        freeze_at: 0 trains everything, 1 freezes the stem, 2 the stem and res2, ..., 5 everything.
        dilation: DC5, in which res5 keeps the resolution of res4 and dilates its convolutions (Li et al., 2017).
        weights: ImageNet weights: one of torchvision's names ("DEFAULT", "IMAGENET1K_V1", ...), which torchvision
            downloads, or a file that `load_checkpoint` reads; None for random weights.

    Raises:
        ValueError: for an unknown depth, stage, norm or weights, or `freeze_at` outside 0..5.
    """

    def __init__(
        self,
        *,
        depth: int = 50,
        out_features: Sequence[str] = ("res5",),
        norm: str = "FrozenBN",
        freeze_at: int = 1,
        dilation: bool = False,
        weights: str | None = None,
    ):
        super().__init__()
        self.channels = resnet_channels(depth=depth, out_features=out_features)
        _check_arguments(depth, norm, freeze_at, dilation)
        name = f"resnet{depth}"
        body = torchvision.models.get_model(
            name, weights=None, norm_layer=NORMS[norm], replace_stride_with_dilation=[False, False, dilation]
        )
        self.out_features = tuple(out_features)
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        last = max(STAGES.index(stage) for stage in out_features)
        self.num_stages = last + 1
        for index in range(self.num_stages):
            self.add_module(f"layer{index + 1}", getattr(body, f"layer{index + 1}"))
        fold_norms(self)
        # Convolutions use the memory format of their weights; channels last is faster on CPUs and tensor cores.
        self.to(memory_format=torch.channels_last)
        if weights is not None:
            _load_weights(self, name, weights)
        self.freeze([nn.ModuleList([self.conv1, self.bn1]), *self._stages()][:freeze_at])

    def _stages(self) -> list[nn.Module]:
        return [getattr(self, f"layer{index + 1}") for index in range(self.num_stages)]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W), normalised. Returns stage name -> (B, C, H / stride, W / stride)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        outputs = {}
        for stage, layer in zip(STAGES, self._stages(), strict=False):
            x = layer(x)
            if stage in self.out_features:
                outputs[stage] = x
        return outputs


def resnet_channels(*, depth: int = 50, out_features: Sequence[str] = ("res5",)) -> dict[str, int]:
    """Return the channels of each stage of a `ResNet` with these arguments, finest first.

    Configs call it to set the input channels of the neck.

    Raises:
        ValueError: for an unknown depth or stage.
    """
    if depth not in DEPTHS:
        raise ValueError(f"ResNet depth={depth}; choices: {', '.join(map(str, DEPTHS))}")
    if not out_features:
        raise ValueError(f"ResNet out_features is empty; choices: {', '.join(STAGES)}")
    for stage in out_features:
        if stage not in STAGES:
            raise ValueError(f"ResNet has no stage {stage!r}{did_you_mean(stage, STAGES)}")
    first = 64 if depth < 50 else 256  # bottleneck blocks have an expansion of 4
    return {stage: first << index for index, stage in enumerate(STAGES) if stage in out_features}


def check_norm_and_freezing(network: str, norm: str, freeze_at: int) -> None:
    """Raise a ValueError when `norm` is not one of `NORMS` or `freeze_at` is outside 0..5."""
    if norm not in NORMS:
        raise ValueError(f"{network} norm={norm!r}{did_you_mean(norm, NORMS)}")
    if not 0 <= freeze_at <= 5:
        raise ValueError(f"{network} freeze_at={freeze_at} is outside 0 (train everything) .. 5 (freeze everything)")


def _check_arguments(depth: int, norm: str, freeze_at: int, dilation: bool) -> None:
    check_norm_and_freezing("ResNet", norm, freeze_at)
    if dilation and depth < 50:
        raise ValueError(f"dilation (DC5) needs bottleneck blocks, so a depth of 50 or more, got depth={depth}")


def _load_weights(model: ResNet, name: str, weights: str) -> None:
    choices = torchvision.models.get_model_weights(name).__members__
    if weights in choices:
        state = choices[weights].get_state_dict(progress=False, check_hash=True)
        model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()}, strict=False)
        return
    if not Path(weights).is_file():
        raise ValueError(
            f"ResNet weights={weights!r} is neither a file nor one of torchvision's names for {name}"
            f"{did_you_mean(weights, choices)}"
        )
    load_checkpoint(model, weights).require_complete(weights)
