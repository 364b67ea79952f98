"""Backbones of timm (https://github.com/huggingface/pytorch-image-models): convolutional networks and transformers.

Differences from timm: images may have any size, the result is a dict of feature maps, and stages that no output needs
are not built. Swin and ConvNeXt compute what the published detectors compute.
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

OLDEST_TIMM = (1, 0, 31)  # earlier versions keep layers that no output needs
INSTALL = "pip install -U timm"

DEFAULT = "DEFAULT"  # torchvision's name for default weights

# Arguments that make networks of a fixed image size accept any size. Windows are partitioned and shifted as on large
# maps, even if the last maps of the pre-training were not larger than a window.
ANY_IMAGE_SIZE = {"dynamic_img_size": True, "strict_img_size": False, "always_partition": True}


class TimmBackbone(FreezableBackbone):
    """A network of timm that returns the feature maps of any of its stages.

    Images are padded with zeros, at the right and the bottom, to whole cells of the coarsest map, and maps are cropped
    to the cells that overlap the image: h = ceil(H / stride). Two networks follow the published detectors instead. Swin
    pads images to whole patches, and each map as far as the next layer needs (`SwinStage`). ConvNeXt drops the rows and
    columns beyond the last whole cell, h = floor(H / stride); only images smaller than a cell are padded to one. In a
    padded batch, convolutions and windows near the border of an image read its padding, and global attention (plain
    vision transformers) reads all of it; `Detector.extract_features` makes detections independent of the padding. The
    few networks that timm builds for a fixed image size, such as BEiT, reject other sizes with timm's message.

    Args:
        model_name: a model of timm (`timm.list_models()`), such as "convnext_tiny".
        out_indices: the stages to return, numbered as in timm (each block of a plain vision transformer is a stage);
            negative indices count from the end. The feature of stage 2 is called "stage2".
        weights: pre-trained weights: one of timm's names for this model ("ms_in22k_ft_in1k"), or "DEFAULT", which timm
            downloads; or a file: timm's, or one of the network's authors where timm knows their names (Swin, ConvNeXt,
            ViT and MAE, among others). None for random weights.
        drop_path_rate: probability that the last residual branch is dropped in training; it decreases towards the
            first one (Huang et al., ECCV 2016).
        frozen: names of modules and parameters of the network that are not trained, such as "patch_embed" or
            "layers.0"; "" is the whole network.
        freeze_batch_norm: keep the pre-trained statistics and affine parameters of batch normalisation, because the
            batches of detection are too small for it.
        norm_outputs: apply a separate layer norm to each returned map, as the published detectors do for Swin and
            ConvNeXt.
        activation_checkpointing: recompute activations in the backward pass instead of storing them.

    Attributes:
        channels: maps feature names to channels.
        strides: maps feature names to strides.

    Raises:
        ImportError: when timm is not installed, or too old.
        ValueError: for an unknown model, stage, weights or part to freeze, a file of a different model, or a
            `drop_path_rate` for a network without droppable branches.
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
        eps = next((module.eps for module in self.model.modules() if isinstance(module, nn.LayerNorm)), 1e-5)
        widths = self.channels if norm_outputs else {}
        self._multiple, self._least = _padding(self.model, max(self.strides.values()))
        # Networks that need arguments to accept any image size check sizes in Python.
        self._compiles = not any(_accepts(self.model, name) for name in ANY_IMAGE_SIZE)
        self.norms = nn.ModuleDict({name: LayerNorm2d(width, eps=eps) for name, width in widths.items()})
        self._freeze(frozen, freeze_batch_norm)

    def _freeze(self, names: Sequence[str], freeze_batch_norm: bool) -> None:
        named: dict[str, Any] = {**dict(self.model.named_parameters()), **dict(self.model.named_modules())}
        for name in names:
            if name not in named:
                main = dict.fromkeys(path.partition(".")[0] for path in named if path)
                hint = did_you_mean(name, named, otherwise=f"; it consists of: {', '.join(main)}")
                raise ValueError(f"frozen={list(names)}: the network has no part {name!r}{hint}")
        parts = [named[name] for name in names]
        if freeze_batch_norm:
            parts += [part for part in self.model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        for part in parts:
            part.requires_grad_(False)
        # Training mode would also drop branches of the frozen parts.
        self.freeze([part for part in parts if isinstance(part, nn.Module)])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W), normalised. Returns feature name -> (B, C, h, w)."""
        height, width = images.shape[-2:]
        bottom, right = (max(self._least - side, -side % self._multiple) for side in (height, width))
        # The graph of a compiled model must not depend on whether sizes are multiples.
        is_padded = bool((self._multiple > 1 and torch.compiler.is_compiling()) or bottom or right)
        if is_padded:
            images = nn.functional.pad(images, (0, right, 0, bottom))
        run = _run if self._compiles else _run_uncompiled
        maps = run(self.model, images, self._indices)
        outputs = {}
        for (name, stride), feature_map in zip(self.strides.items(), maps, strict=True):
            feature_map = self.norms[name](feature_map) if name in self.norms else feature_map
            outputs[name] = (
                feature_map[..., : -(-height // stride), : -(-width // stride)] if is_padded else feature_map
            )
        return outputs


def _run(network: Any, images: Tensor, indices: Sequence[int]) -> list[Tensor]:
    return network.forward_intermediates(images, indices=indices, output_fmt="NCHW", intermediates_only=True)


# Tracing the size checks would give one graph per image size, and tracing Swin's windows does not terminate.
@torch.compiler.disable
def _run_uncompiled(network: Any, images: Tensor, indices: Sequence[int]) -> list[Tensor]:
    return _run(network, images, indices)


def timm_channels(*, model_name: str, out_indices: Sequence[int] = (-1,)) -> dict[str, int]:
    """Return the channels of each feature of a `TimmBackbone` with these arguments, without creating weights.

    Configs call it to set the input channels of the neck.

    Raises:
        ImportError, ValueError: as `TimmBackbone`.
    """
    return {name: stage["num_chs"] for name, stage in _stages(model_name, out_indices).items()}


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"timm backbones need the package timm, which is not installed: {INSTALL}") from error
    if tuple(map(int, re.findall(r"\d+", timm.__version__)[:3])) < OLDEST_TIMM:
        oldest = ".".join(map(str, OLDEST_TIMM))
        raise ImportError(f"timm backbones need timm {oldest} or newer, but this is {timm.__version__}: {INSTALL}")
    return timm


@functools.cache
def _skeleton(model_name: str) -> Any:
    """Create the whole network on the meta device, to inspect its modules and arguments."""
    timm = _timm()
    name, _, weights = model_name.partition(".")
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models(), otherwise="; timm.list_models() lists all models")
        raise ValueError(f"timm {timm.__version__} has no model {name!r}{hint}")
    if weights:
        raise ValueError(f"model_name={model_name!r} includes weights: give model_name={name!r}, weights={weights!r}")
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0)


def _stages(model_name: str, out_indices: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Map feature names to timm's description of the stage (index, num_chs, reduction, module), finest first."""
    stages = [{**stage, "index": index} for index, stage in enumerate(_skeleton(model_name).feature_info)]
    unknown = [index for index in out_indices if not -len(stages) <= index < len(stages)]
    if unknown or not out_indices:
        choices = ", ".join(
            f"{stage['index']} ({stage['module']}: stride {stage['reduction']}, {stage['num_chs']} channels)"
            for stage in stages
        )
        fault = f"has no stage {unknown[0]}" if unknown else "needs at least one stage in out_indices"
        raise ValueError(f"{model_name} {fault}; choices: {choices}, or -1, -2, .. from the end")
    indices = sorted({index % len(stages) for index in out_indices})
    return {f"stage{index}": stages[index] for index in indices}


def _accepts(network: nn.Module, argument: str) -> bool:
    """Whether the constructor of the network's class, or of a base class, has an argument of this name."""
    constructors = (vars(cls).get("__init__") for cls in type(network).__mro__)
    return any(
        argument in inspect.signature(constructor).parameters
        for constructor in constructors
        if inspect.isfunction(constructor)
    )


def _padding(network: nn.Module, coarsest: int) -> tuple[int, int]:
    """Return (multiple, minimum): image sides are padded to a multiple, and to at least the minimum, in pixels."""
    models = _timm().models
    if isinstance(network, models.SwinTransformer):
        return 1, 1
    if isinstance(network, models.ConvNeXt):
        return 1, coarsest
    return coarsest, 1


def _as_published(network: Any) -> Any:
    """Replace timm's stages by those of the published detectors."""
    if isinstance(network, _timm().models.SwinTransformer):
        network.patch_embed.dynamic_img_pad = True
        network.layers = nn.Sequential(*map(SwinStage, network.layers))
    return network


def _create(model_name: str, indices: Sequence[int], weights: str | None, drop_path_rate: float) -> Any:
    """Create the network without the parts that the requested stages do not need."""
    timm, skeleton = _timm(), _skeleton(model_name)
    arguments: dict[str, Any] = {name: value for name, value in ANY_IMAGE_SIZE.items() if _accepts(skeleton, name)}
    if _accepts(skeleton, "drop_path_rate"):
        arguments["drop_path_rate"] = drop_path_rate
    elif drop_path_rate:
        raise ValueError(f"{model_name} has no droppable branches: drop_path_rate={drop_path_rate} must be 0")
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
    """Read the weights of a file under timm's names, converting them if timm can."""
    state = model_state(read_checkpoint(path))
    # By timm's convention, a module that defines networks has a function of this name that converts their weights.
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return state
    try:
        return translate(state, network)
    except Exception as error:
        # Conversion functions look up the names that they expect, and fail in many ways on other weights.
        raise CheckpointError(
            f"{path} does not contain weights of {model_name}: expected names are missing "
            f"({type(error).__name__}: {error})"
        ) from error


def _checkpoint_activations(network: Any, model_name: str) -> None:
    try:
        network.set_grad_checkpointing()
    except AssertionError as error:  # timm's way to report that a network does not support it
        raise ValueError(f"timm does not support activation_checkpointing for {model_name}") from error
