"""The length of a run in epochs as a number of steps."""

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config import locate
from ..data.catalog import load_dataset, published_size
from .build import batches_per_epoch, build_loader


def steps_of_epochs(epochs: float, batches: float) -> int:
    """The steps of so many epochs of so many steps each: the next whole number, at least 1."""
    # Products such as 0.1 * 3 / 0.1 exceed the whole number that they stand for.
    return max(1, math.ceil(epochs * batches - 1e-6))


def default_max_iter(cfg: DictConfig) -> int | None:
    """What `train.max_iter` is in configs that do not set it: the steps of `train.max_epochs`.

    It is there for engines that know no epochs, such as detectron2's, and for whoever prints a config. This package's
    engine counts the batches of its own loader, and takes gradients from `train.accumulate_steps` of them per step.

    Args:
        cfg: a whole config.

    Returns:
        None when `train.max_epochs` is null, and when the images cannot be counted.
    """
    try:
        epochs, loader = (OmegaConf.select(cfg, key) for key in ("train.max_epochs", "dataloader.train"))
        if epochs is None or loader is None:
            return None
        batches = _published_batches(loader) or batches_per_epoch(build_loader(loader))
    except (ValueError, OSError):  # faults of config and data, which are told by whoever needs them
        return None
    return None if batches is None else steps_of_epochs(epochs, batches)


def _published_batches(loader: Any) -> int | None:
    """The batches of an epoch of a built-in data set, without reading it; None for all others."""
    dataset: Any = loader.get("dataset") or {}
    target = dataset.get("_target_")
    if (locate(target) if isinstance(target, str) else target) is not load_dataset:
        return None
    images = published_size(dataset.name)
    if images is None or loader.get("limit") is not None or loader.get("filter_empty"):
        return None
    return math.ceil(images / loader.total_batch_size)
