"""Runs a model over a data set."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn

from .. import distributed

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOGS = 10.0


def run_evaluation(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    evaluator: Any,
    *,
    max_batches: int | None = None,
) -> dict[str, dict[str, float]]:
    """Run `model` in eval mode on every batch of `loader` and pass the outputs to `evaluator`.

    Afterwards each module of the model has its previous mode again. With several processes, each must call this with
    its own part of the images.

    Args:
        model: takes a `list[dict]` and returns one output for each.
        loader: iterates over batches in the model's input format.
        evaluator: has `reset`, `process(inputs, outputs)` and `evaluate`.
        max_batches: number of batches after which to stop. Metrics of a part of the images would be meaningless, so
            `evaluator.evaluate` is then not called; this only checks that model, data and evaluator fit together.

    Returns:
        The result of `evaluator.evaluate()`, or `{}` with `max_batches`.

    Raises:
        ValueError: when the loader returns no batch.
    """
    evaluator.reset()
    num_images = 0
    with _eval_mode(model), torch.inference_mode():
        start = last_log = time.perf_counter()
        for index, inputs in enumerate(islice(loader, max_batches)):
            evaluator.process(inputs, model(inputs))
            num_images += len(inputs)
            now = time.perf_counter()
            if now - last_log >= SECONDS_BETWEEN_LOGS:
                last_log = now
                _log_progress(index + 1, loader, num_images, now - start)
        seconds = time.perf_counter() - start

    if max_batches is not None:
        evaluator.reset()
        return {}
    if num_images == 0 and distributed.world_size() == 1:
        raise ValueError("the test loader returned no batch: there are no images to evaluate on")
    logger.info(
        "Inference on %d images%s took %.1f s (%.1f images/s).",
        num_images,
        " of this process" if distributed.is_distributed() else "",
        seconds,
        num_images / max(seconds, 1e-9),
    )
    return evaluator.evaluate()


def _log_progress(batches: int, loader: Any, num_images: int, seconds: float) -> None:
    rate = num_images / seconds
    if hasattr(loader, "__len__"):
        remaining = (len(loader) - batches) * seconds / batches
        logger.info("Inference: batch %d of %d, %.1f images/s, %.0f s left.", batches, len(loader), rate, remaining)
    else:
        logger.info("Inference: batch %d, %.1f images/s.", batches, rate)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Use eval mode within this context; afterwards each module has its previous mode, which may be eval mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
