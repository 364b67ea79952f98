"""Backbones of timm (https://github.com/huggingface/pytorch-image-models): convolutional networks and transformers.

What differs from timm: images of any size are taken, the result is a dict of feature maps, and stages that no output
needs are not built. Swin and ConvNeXt compute what they do in the published detectors.
"""

import functools
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint import CheckpointError, load_checkpoint, model_state, read_checkpoint
from ...errors import did_you_mean
from ..layer_norm import LayerNorm2d
from .freezing import FreezableBackbone
from .swin import SwinStage

OLDEST_TIMM = (1, 0, 31)  # those before leave layers behind that nothing uses
INSTALL = "pip install -U timm"

DEFAULT = "DEFAULT"  # as torchvision calls the weights of its choice

# What makes networks of one image size take all, where they have these arguments. Windows are partitioned and shifted
# as on large maps even where the pre-training's last maps were no larger than a window.
ANY_IMAGE_SIZE = {"dynamic_img_size": True, "strict_img_size": False, "always_partition": True}


class TimmBackbone(FreezableBackbone):
    """A network of timm that returns the feature maps of any of its stages.

    Images are padded with zeros, at the right and the bottom, to whole cells of the coarsest map, and maps are cut to
    the cells that have pixels of the image: h = ceil(H / stride). Two networks do as the published detectors do. Swin
    pads images to whole patches, and each map to what the next layer needs (`SwinStage`). ConvNeXt leaves out the rows
    and columns beyond the last whole cell, h = floor(H / stride); only images smaller than a cell are padded to one.
    In a padded batch, convolutions and windows near the border of an image see its padding, and global attention
    (plain vision transformers) sees all of it; `Detector.extract_features` is what makes detections independent of
    that. The few networks that timm builds for one image size, such as BEiT, refuse others with timm's message.

    Args:
        model_name: one of timm's (`timm.list_models()`), such as "convnext_tiny".
        out_indices: the stages to return, as timm counts them (each block of a plain vision transformer is one); from
            the end when negative. The feature of stage 2 is called "stage2".
        weights: pre-trained weights: one of timm's names for this model ("ms_in22k_ft_in1k"), or "DEFAULT", which timm
            downloads; or a file: timm's, or one of the network's authors where timm knows their names (Swin, ConvNeXt,
            ViT and MAE, among others). None for random weights.
        drop_path_rate: probability that the last residual branch is dropped in training, less for those before
            (Huang et al., ECCV 2016).
        frozen: names of modules and parameters of the network that are not trained, such as "patch_embed" or
            "layers.0"; "" is the whole network.
        freeze_batch_norm: keep statistics and affine parameters of batch normalisation as they are pre-trained:
            batches of detection are too small for it.
        norm_outputs: a layer normalisation of its own after each returned map, as published detectors have it on
            Swin and ConvNeXt.
        activation_checkpointing: compute activations again in the backward pass instead of storing them.

    Attributes:
        channels: feature name -> channels.
        strides: feature name -> stride.

    Raises:
        ImportError: when timm is not installed, or too old.
        ValueError: for an unknown model, stage, weights or part to freeze, a file of another model, or a
            `drop_path_rate` for a network without residual branches that can be dropped.
    """

    def __init__(
        self,
        *,
        model_name: str,
        out_indices: Sequence[int] = (-1,),
        weights: str | None = None,
        drop_path_rate: float = 0.0,
        frozen: Sequence[str] = (),
        freeze_batch_norm: bool = True,
        norm_outputs: bool = False,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        stages = _stages(model_name, out_indices)
        self.channels = {name: stage["num_chs"] for name, stage in stages.items()}
        self.strides = {name: stage["reduction"] for name, stage in stages.items()}
        self._indices = [stage["index"] for stage in stages.values()]
        self.model = _create(model_name, self._indices, weights, drop_path_rate)
        if activation_checkpointing:
            _checkpoint_activations(self.model, model_name)
        eps = next((one.eps for one in self.model.modules() if isinstance(one, nn.LayerNorm)), 1e-5)
        widths = self.channels if norm_outputs else {}
        self._multiple, self._least = _padding(self.model, max(self.strides.values()))
        # Those that must be told to take images of any size look at sizes in Python.
        self._compiles = not any(_accepts(self.model, name) for name in ANY_IMAGE_SIZE)
        self.norms = nn.ModuleDict({name: LayerNorm2d(width, eps=eps) for name, width in widths.items()})
        self._freeze(frozen, freeze_batch_norm)

    def _freeze(self, names: Sequence[str], freeze_batch_norm: bool) -> None:
        named: dict[str, Any] = {**dict(self.model.named_parameters()), **dict(self.model.named_modules())}
        for name in names:
            if name not in named:
                main = dict.fromkeys(one.partition(".")[0] for one in named if one)
                hint = did_you_mean(name, named, otherwise=f"; it consists of: {', '.join(main)}")
                raise ValueError(f"frozen={list(names)}: the network has no part {name!r}{hint}")
        parts = [named[name] for name in names]
        if freeze_batch_norm:
            parts += [one for one in self.model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
        for part in parts:
            part.requires_grad_(False)
        # Branches would be dropped for nothing, too, if these were in training mode.
        self.freeze([part for part in parts if isinstance(part, nn.Module)])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W), normalised. Returns feature name -> (B, C, h, w)."""
        height, width = images.shape[-2:]
        bottom, right = (max(self._least - side, -side % self._multiple) for side in (height, width))
        # A compiled model must not depend on whether they are multiples.
        is_padded = bool((self._multiple > 1 and torch.compiler.is_compiling()) or bottom or right)
        if is_padded:
            images = nn.functional.pad(images, (0, right, 0, bottom))
        run = _run if self._compiles else _run_uncompiled
        maps = run(self.model, images, self._indices)
        outputs = {}
        for (name, stride), one in zip(self.strides.items(), maps, strict=True):
            one = self.norms[name](one) if name in self.norms else one
            outputs[name] = one[..., : -(-height // stride), : -(-width // stride)] if is_padded else one
        return outputs


def _run(network: Any, images: Tensor, indices: Sequence[int]) -> list[Tensor]:
    return network.forward_intermediates(images, indices=indices, output_fmt="NCHW", intermediates_only=True)


# Tracing checks of sizes gives a graph for each size, and that of Swin's windows does not end.
@torch.compiler.disable
def _run_uncompiled(network: Any, images: Tensor, indices: Sequence[int]) -> list[Tensor]:
    return _run(network, images, indices)


def timm_channels(*, model_name: str, out_indices: Sequence[int] = (-1,)) -> dict[str, int]:
    """Feature name -> channels of what a `TimmBackbone` with these arguments returns; no weights are made for it.

    Configs call it for what follows the backbone.

    Raises:
        ImportError, ValueError: as `TimmBackbone`.
    """
    return {name: stage["num_chs"] for name, stage in _stages(model_name, out_indices).items()}


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"backbones of timm need the package timm, which is not installed: {INSTALL}") from error
    if tuple(map(int, re.findall(r"\d+", timm.__version__)[:3])) < OLDEST_TIMM:
        oldest = ".".join(map(str, OLDEST_TIMM))
        raise ImportError(f"backbones of timm need timm {oldest} or newer, this is {timm.__version__}: {INSTALL}")
    return timm


@functools.cache
def _skeleton(model_name: str) -> Any:
    """The whole network on the meta device: what it is made of and which arguments it takes."""
    timm = _timm()
    name, _, weights = model_name.partition(".")
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), otherwise="; timm.list_models() lists those that it has")
        raise ValueError(f"timm {timm.__version__} has no model {name!r}{hint}")
    if weights:
        raise ValueError(f"model_name={model_name!r} names weights too: give model_name={name!r}, weights={weights!r}")
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0)


def _stages(model_name: str, out_indices: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Feature name -> timm's description of the stage (index, num_chs, reduction, module), finest first."""
    stages = [{**stage, "index": index} for index, stage in enumerate(_skeleton(model_name).feature_info)]
    unknown = [index for index in out_indices if not -len(stages) <= index < len(stages)]
    if unknown or not out_indices:
        choices = ", ".join(
            f"{one['index']} ({one['module']}: stride {one['reduction']}, {one['num_chs']} channels)" for one in stages
        )
        fault = f"has no stage {unknown[0]}" if unknown else "needs at least one stage in out_indices"
        raise ValueError(f"{model_name} {fault}; choices: {choices}, or -1, -2, .. from the end")
    wanted = sorted({index % len(stages) for index in out_indices})
    return {f"stage{index}": stages[index] for index in wanted}


def _accepts(network: nn.Module, argument: str) -> bool:
    """Whether the class of a network, or one that it extends, names an argument of its constructor so."""
    constructors = (vars(cls).get("__init__") for cls in type(network).__mro__)
    return any(argument in inspect.signature(one).parameters for one in constructors if inspect.isfunction(one))


def _padding(network: nn.Module, coarsest: int) -> tuple[int, int]:
    """What the sides of images are padded to: multiples of a number of pixels, and at least another number."""
    models = _timm().models
    if isinstance(network, models.SwinTransformer):
        return 1, 1
    if isinstance(network, models.ConvNeXt):
        return 1, coarsest
    return coarsest, 1


def _as_published(network: Any) -> Any:
    """The network with the stages of published detectors in place of timm's."""
    if isinstance(network, _timm().models.SwinTransformer):
        network.patch_embed.dynamic_img_pad = True
        network.layers = nn.Sequential(*map(SwinStage, network.layers))
    return network


def _create(model_name: str, indices: Sequence[int], weights: str | None, drop_path_rate: float) -> Any:
    """The network without the parts that these stages do not need."""
    timm, skeleton = _timm(), _skeleton(model_name)
    arguments: dict[str, Any] = {name: value for name, value in ANY_IMAGE_SIZE.items() if _accepts(skeleton, name)}
    if _accepts(skeleton, "drop_path_rate"):
        arguments["drop_path_rate"] = drop_path_rate
    elif drop_path_rate:
        raise ValueError(f"{model_name} has no branches to drop: drop_path_rate={drop_path_rate} must be 0")
    names = [name.partition(".")[2] for name in timm.list_models(f"{model_name}.*", pretrained=True)]
    published = [DEFAULT, *names] if names else []
    if weights in published:
        name = model_name if weights == DEFAULT else f"{model_name}.{weights}"
        network = timm.create_model(name, pretrained=True, num_classes=0, **arguments)
        network.prune_intermediate_layers(indices, prune_norm=True)
        return _as_published(network)
    if weights is not None and not Path(weights).is_file():
        raise ValueError(
            f"TimmBackbone weights={weights!r} is neither a file nor one of timm's names for {model_name}"
            f"{did_you_mean(weights, published)}"
        )
    network = timm.create_model(model_name, num_classes=0, **arguments)
    state = None if weights is None else _read_weights(weights, network, model_name)
    network.prune_intermediate_layers(indices, prune_norm=True)
    if weights is not None and state is not None:
        load_checkpoint(network, state, source="detrex_lite").require_complete(weights)
    return _as_published(network)


def _read_weights(path: str, network: nn.Module, model_name: str) -> Mapping[str, Any]:
    """The content of a file under timm's names, which the file has or which timm knows how to make of its names."""
    state = model_state(read_checkpoint(path))
    # timm's convention: a module that defines networks has the translation for their weights under this name.
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return state
    try:
        return translate(state, network)
    except Exception as error:
        # Translations look up what they expect, and fail in many ways on weights of other networks.
        raise CheckpointError(
            f"{path} holds no weights of {model_name}, whose names cannot be found in it "
            f"({type(error).__name__}: {error})"
        ) from error


def _checkpoint_activations(network: Any, model_name: str) -> None:
    try:
        network.set_grad_checkpointing()
    except AssertionError as error:  # how timm says that a network cannot
        raise ValueError(f"{model_name} has no activation_checkpointing in timm") from error
