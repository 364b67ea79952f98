"""Building small models, and helpers of tests."""

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
    """Build the model of a config with seeded weights."""
    torch.manual_seed(seed)
    return instantiate(cfg)


def build_randomised(cfg: DictConfig, seed: int = 0) -> Any:
    """Build a model with random values in matrices that are initialised as zeros, which would hide errors."""
    model = build(cfg, seed)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.xavier_normal_(parameter)
    return model


def build_on_meta(path: str | os.PathLike[str]) -> tuple[Any, DictConfig]:
    """Build the model of a config file without memory for weights; returns it with its config."""
    cfg = LazyConfig.load(str(path)).model
    cfg.backbone.weights = None  # weights cannot be loaded on the meta device
    with torch.device("meta"):
        return instantiate(cfg), cfg


def predict(
    model: Detector,
    inputs: Sequence[dict[str, Any]],
    *,
    targets: bool = False,
    as_published: bool | None = None,
) -> Mapping[str, Predictions]:
    """Compute the sets of predictions of a model.

    Args:
        model: a detector.
        inputs: in detectron2's format.
        targets: whether the model gets the objects, which adds the queries that exist in training only.
        as_published: how modules treat the padding, see `ImageBatch`; None follows the model's mode.
    """
    images = model.preprocess(inputs, as_published=model.training if as_published is None else as_published)
    if not targets:
        return model.predict(images)
    return model.predict(images, model.targets(inputs, images))


def loss_names(suffixes: Iterable[str], kinds: Iterable[str] = ("class", "bbox", "giou")) -> set[str]:
    """Return the names of losses for sets of predictions, with the kinds that all detectors here have by default."""
    return {f"loss_{kind}{suffix}" for kind in kinds for suffix in suffixes}


def parameter_patterns(model: nn.Module, leave_out: tuple[str, ...] = ("backbone.",)) -> set[str]:
    """Return parameter names without prefixes in `leave_out`, with numbers as N, and weights and biases as `*`."""
    names = {re.sub(r"\.\d+(?=\.)", ".N", name) for name in model.state_dict() if not name.startswith(leave_out)}
    return {re.sub(r"\.(weight|bias)$", ".*", name) for name in names}


def has_gradient(module: nn.Module) -> bool:
    """Whether every parameter has a non-zero gradient; fails when only some have."""
    has_gradients = {parameter.grad is not None and bool(parameter.grad.any()) for parameter in module.parameters()}
    assert len(has_gradients) == 1
    return has_gradients.pop()


def require_all_gradients(model: nn.Module, losses: Mapping[str, Tensor]) -> None:
    """Check that every parameter has a finite gradient, as DistributedDataParallel requires."""
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = {name: parameter.grad for name, parameter in trained.items() if parameter.grad is not None}
    assert sorted(set(trained) - set(gradients)) == []
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
