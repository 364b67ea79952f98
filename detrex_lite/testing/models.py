"""Building small models, and what tests ask of them."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ..config import LazyConfig, instantiate
from ..modeling import Detector, Predictions


def build(cfg: DictConfig, seed: int = 0) -> Any:
    """The model of a config, with weights that the seed says."""
    torch.manual_seed(seed)
    return instantiate(cfg)


def build_lively(cfg: DictConfig, seed: int = 0) -> Any:
    """A model where matrices that begin as zeros are random: as zeros they hide what is before them."""
    model = build(cfg, seed)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.xavier_normal_(parameter)
    return model


def build_on_meta(path: str | os.PathLike[str]) -> tuple[Any, DictConfig]:
    """The model of a config file and its config, without memory for the weights."""
    cfg = LazyConfig.load(str(path)).model
    cfg.backbone.weights = None  # on the meta device there is nothing to load into
    with torch.device("meta"):
        return instantiate(cfg), cfg


def predict(
    model: Detector,
    inputs: Sequence[dict[str, Any]],
    *,
    targets: bool = False,
    as_published: bool | None = None,
) -> Mapping[str, Predictions]:
    """The sets of predictions that a model makes.

    Args:
        model: a detector.
        inputs: in detectron2's format.
        targets: whether the model is given their objects, and so makes what exists in training only.
        as_published: what modules do with the padding, see `ImageBatch`; None for what the model's mode says.
    """
    images = model.preprocess(inputs, as_published=model.training if as_published is None else as_published)
    if not targets:
        return model.predict(images)
    return model.predict(images, model.targets(inputs, images))


def loss_names(suffixes: Iterable[str], kinds: Iterable[str] = ("class", "bbox", "giou")) -> set[str]:
    """The names of the losses of sets of predictions, of the losses that all detectors here have."""
    return {f"loss_{kind}{suffix}" for kind in kinds for suffix in suffixes}


def parameter_patterns(model: nn.Module, leave_out: tuple[str, ...] = ("backbone.",)) -> set[str]:
    """The names in a checkpoint, without those that begin with `leave_out`: numbers as N, weights and biases as `*`."""
    names = {re.sub(r"\.\d+(?=\.)", ".N", name) for name in model.state_dict() if not name.startswith(leave_out)}
    return {re.sub(r"\.(weight|bias)$", ".*", name) for name in names}


def has_gradient(module: nn.Module) -> bool:
    """Whether every parameter got a gradient that is not zero; an error when only some did."""
    got = {parameter.grad is not None and bool(parameter.grad.any()) for parameter in module.parameters()}
    assert len(got) == 1
    return got.pop()


def require_all_gradients(model: nn.Module, losses: Mapping[str, Tensor]) -> None:
    """Every parameter gets a gradient, as DistributedDataParallel needs it, and all is finite."""
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = {name: parameter.grad for name, parameter in trained.items() if parameter.grad is not None}
    assert sorted(set(trained) - set(gradients)) == []
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
