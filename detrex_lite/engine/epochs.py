"""Converts the length of a run from epochs to steps."""

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config import locate
from ..data.catalog import load_dataset, published_size
from .build import batches_per_epoch, build_loader


def steps_of_epochs(epochs: float, batches: float) -> int:
    """The number of steps in `epochs` epochs of `batches` steps each, rounded up, at least 1."""
    # Because of rounding errors, products such as 0.1 * 3 / 0.1 can exceed the exact whole number.
    return max(1, math.ceil(epochs * batches - 1e-6))


def default_max_iter(cfg: DictConfig) -> int | None:
    """The default of `train.max_iter`: the number of steps in `train.max_epochs`.

    It is for engines without epochs, such as detectron2's, and for printed configs. This package's engine counts the
    batches of its own loader, and accumulates the gradients of `train.accumulate_steps` batches per step.

    Args:
        cfg: a complete config.

    Returns:
        None when `train.max_epochs` is null, and when the images cannot be counted.
    """
    try:
        epochs, loader = (OmegaConf.select(cfg, key) for key in ("train.max_epochs", "dataloader.train"))
        if epochs is None or loader is None:
            return None
        batches = _published_batches(loader) or batches_per_epoch(build_loader(loader))
    except (ValueError, OSError):  # errors in the config or data are reported by the code that uses them
        return None
    return None if batches is None else steps_of_epochs(epochs, batches)


def _published_batches(loader: Any) -> int | None:
    """The batches in an epoch of a built-in data set, without reading it; None for all other data sets."""
    dataset: Any = loader.get("dataset") or {}
    target = dataset.get("_target_")
    if (locate(target) if isinstance(target, str) else target) is not load_dataset:
        return None
    images = published_size(dataset.name)
    if images is None or loader.get("limit") is not None or loader.get("filter_empty"):
        return None
    return math.ceil(images / loader.total_batch_size)
