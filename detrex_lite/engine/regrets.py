"""Warnings, before the first step, of settings that train without an error and that users regret after the training."""

import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ..data import DatasetError, mapped_sample
from ..errors import few
from .derived import learning_rate

logger = logging.getLogger(__name__)

SMALL_SHARE = 0.05  # least fraction of boxes smaller than a cell that causes a warning
SAMPLED_IMAGES = 8  # images whose resizing is measured
LARGEST_STRIDE = 64  # pixels; the stride is computed only when boxes are smaller than this
HIGH_RATE = 4.0  # factor over the learning rate that suits pre-trained weights


def warn_of_regrets(
    cfg: DictConfig, *, model: nn.Module, datasets: dict[str, Any], loaders: dict[str, Any], fine_tunes: bool
) -> list[str]:
    """Log warnings of settings that users regret after hours of training.

    Args:
        cfg: a complete config.
        model: the model, on its device.
        datasets: "training" and "validation" -> data set, or None when it is not known.
        loaders: the same names -> loader.
        fine_tunes: whether training starts from the weights of a detector.

    Returns:
        The warnings.
    """
    training, validation = datasets.get("training"), datasets.get("validation")
    regrets: list[str] = []
    if training is not None and training.has_annotations:
        regrets += classes_without_objects(training)
        regrets += more_objects_than_queries(training, _number_of_queries(cfg, model))
        regrets += boxes_below_a_cell(training, model, loaders.get("validation", loaders.get("training")))
    if training is not None and validation is not None:
        regrets += images_in_both(training, validation)
    if fine_tunes:
        regrets += high_learning_rate(cfg)
    for regret in regrets:
        logger.warning("Before you regret it: %s", regret)
    return regrets


def classes_without_objects(dataset: Any) -> Iterator[str]:
    """Yield a warning when the training set has classes without boxes, which the detector cannot learn."""
    counts = np.bincount(dataset.classes[~dataset.iscrowd], minlength=dataset.num_classes)
    missing = [name for name, count in zip(dataset.class_names, counts, strict=True) if count == 0]
    if missing:
        yield (
            f"the training set {dataset.name!r} has no object of {len(missing)} of its {dataset.num_classes} classes "
            f"({few(missing)}): they cannot be learnt. Leave them out of the data set, or check its split"
        )


def more_objects_than_queries(dataset: Any, num_queries: int | None) -> Iterator[str]:
    """Yield a warning when images have more objects than the detector has queries."""
    objects = dataset.objects_per_image()
    if num_queries is None or not len(objects) or objects.max() <= num_queries:
        return
    fullest = int(objects.argmax())
    yield (
        f"{int((objects > num_queries).sum())} training images have more objects than the detector has queries "
        f"(model.num_queries={num_queries}; {dataset.file_name(fullest)} has {objects[fullest]}): the rest can never "
        f"be found. Set model.num_queries to {enough_queries(int(objects.max()))} or so"
    )


def enough_queries(num_objects: int) -> int:
    """A suitable number of queries for images with `num_objects` objects: 1.5 times, rounded up to a multiple of 50."""
    return _round_up(int(num_objects * 1.5))


def images_in_both(training: Any, validation: Any) -> Iterator[str]:
    """Yield a warning when validation images are training images: results on them say nothing about new images."""
    training_paths = {os.path.abspath(training.file_name(index)) for index in range(len(training))}
    names = [validation.file_name(index) for index in range(len(validation))]
    shared = [name for name in names if os.path.abspath(name) in training_paths]
    if shared:
        yield (
            f"{len(shared)} of {len(names)} validation images are in the training set, too ({few(shared, limit=3)}): "
            "results on them do not show how the detector performs on new images"
        )


def boxes_below_a_cell(dataset: Any, model: nn.Module, loader: Any) -> Iterator[str]:
    """Yield a warning when many boxes, after resizing, are smaller than a cell of the finest feature map.

    Args:
        dataset: the data set whose boxes are measured.
        model: a `Detector`; other models are not checked.
        loader: the loader whose mapper resizes the images, preferably that of validation, which has no augmentation.
    """
    boxes = dataset.boxes[~dataset.iscrowd]
    if not len(boxes) or not hasattr(model, "feature_maps"):
        return
    samples = _resized_samples(dataset, loader)
    if not samples:
        return
    scale = float(np.median([math.sqrt(_area(image) / original) for image, original in samples]))
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) * scale
    if np.mean(sides < LARGEST_STRIDE) < SMALL_SHARE:
        return
    try:
        stride = finest_stride(model, samples[0][0])
    except (RuntimeError, ValueError):  # the trial evaluation that follows will raise the same error
        return
    fraction = np.mean(sides < stride)
    if fraction < SMALL_SHARE:
        return
    needed = np.quantile(sides, SMALL_SHARE)
    yield (
        f"{fraction:.0%} of the training boxes are smaller than a cell of the finest feature map ({stride:.0f} pixels; "
        f"images are resized by {scale:.2f}, the median box is then {np.median(sides):.0f} pixels high and wide). Such "
        f"objects are hard to tell apart: images {stride / max(needed, 1e-3):.1f} times as large, tiles of them, or a "
        "detector with a finer level would help"
    )


def finest_stride(model: Any, image: torch.Tensor) -> float:
    """The stride of the finest feature map, in pixels.

    Args:
        model: a `Detector`; its state and the random states are preserved.
        image: (3, H, W), the image on which the stride is measured.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            normalised = model.preprocess([{"image": image}], as_published=False).tensor
            finest = model.feature_maps(normalised)[0]
    finally:
        for module, training in modes:
            module.training = training
    return math.sqrt(_area(normalised) / _area(finest))


def high_learning_rate(cfg: DictConfig) -> Iterator[str]:
    """Yield a warning when pre-trained weights are fine-tuned at a learning rate for training from scratch."""
    try:
        lr, suitable = float(cfg.optimizer.lr), learning_rate(cfg)
    except (OmegaConfBaseException, TypeError, ValueError):  # an optimizer or a loader without these keys
        return
    if lr >= HIGH_RATE * suitable:
        yield (
            f"train.init_checkpoint is fine-tuned with optimizer.lr={lr:g}, which is a rate for training from "
            f"scratch: what the weights know may be lost. optimizer.lr={suitable:g} suits the size of the batch"
        )


def _number_of_queries(cfg: DictConfig, model: nn.Module) -> int | None:
    num_queries = getattr(model, "num_queries", None)
    if num_queries is None:
        num_queries = OmegaConf.select(cfg, "model.num_queries")
    return num_queries if isinstance(num_queries, int) else None


def _resized_samples(dataset: Any, loader: Any) -> list[tuple[torch.Tensor, int]]:
    """(image resized by the loader's mapper, its original area in pixels) of a few training images."""
    samples = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, SAMPLED_IMAGES).round().astype(int)):
        try:
            sample = mapped_sample(loader, dataset, int(index))
        except DatasetError:  # the loader skips this image too, with a warning
            continue
        if sample is None:
            return []
        samples.append((sample["image"], int(dataset.heights[index]) * int(dataset.widths[index])))
    return samples


def _area(image: torch.Tensor) -> int:
    return image.shape[-2] * image.shape[-1]


def _round_up(number: int) -> int:
    return -(-number // 50) * 50
