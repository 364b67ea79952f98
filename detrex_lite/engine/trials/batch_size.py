"""Finds the largest batch that fits into memory."""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from ...config import ConfigError
from ...data import dataset_of
from ...devices import is_out_of_memory
from ..derived import learning_rate
from ..loop.trainer import Batch, Trainer
from ..memory import WORKSPACE, bytes_kept, free_memory
from ..memory_full import GIB, describe_batch
from ..run import Run
from .trial import autocast, build_trainer, trial

logger = logging.getLogger(__name__)

LARGEST = 1024  # images; larger batches are not tried
SAMPLED_BATCHES = 4  # batches from which the trial image is chosen
MARGIN = 0.9  # usable fraction of the memory: later images may be larger and have more objects


class BatchSize(NamedTuple):
    """The result of a search.

    Attributes:
        images: the recommended number of images in a batch of one process; 0 when not even one fits.
        measured: images in a batch -> peak memory in bytes, for the batches that were tried and fitted.
        memory: the available memory in bytes.
        advice: how to use the result.
    """

    images: int
    measured: dict[int, int]
    memory: int
    advice: str

    def __str__(self) -> str:
        """A table of the memory by batch, and the advice."""
        lines = [f"{images:6d} images  {used / GIB:8.2f} GiB" for images, used in self.measured.items()]
        return "\n".join([*lines, f"there are {self.memory / GIB:.2f} GiB", self.advice])


def find_batch_size(cfg: DictConfig, *, largest: int = LARGEST) -> BatchSize:
    """Find the largest number of images in a batch of one process that fits into memory.

    Batches repeat the largest of the first images after augmentation. On a GPU, steps with growing batches are run
    until the memory is full. On a CPU, where the system might then kill other programs, the number is computed from the
    free memory and from what forward passes of one and of two images keep for the backward pass.

    Args:
        cfg: a config as `train` takes it. The result holds for its precision, recomputation of activations and image
            sizes.
        largest: the largest batch to try; larger batches than the training set are not tried either.

    Raises:
        ConfigError: for a config that `train` rejects.
    """
    if largest < 1:
        raise ConfigError(f"largest={largest}: a batch has at least one image")
    with trial(cfg) as run:
        sample = largest_sample(run.train_loader)
        logger.info("Trying batches of %s.", describe_batch([sample]))
        trainer = build_trainer(run, max_iter=1, hooks=[])
        if (dataset := dataset_of(run.train_loader)) is not None:
            largest = min(largest, len(dataset))
        find = _on_gpu if run.device.type == "cuda" else _on_cpu
        images, measured, memory = find(run, trainer, sample, largest)
        result = BatchSize(images, measured, memory, _advice(run.cfg, images, largest))
        logger.info("%s", result)
    return result


def largest_sample(loader: Any) -> dict[str, Any]:
    """The image of the first batches with the most pixels and, among equal ones, the most objects."""
    samples = [sample for batch in islice(loader, SAMPLED_BATCHES) for sample in batch]

    def size(sample: dict[str, Any]) -> tuple[int, int]:
        return sample["image"][0].numel(), len(sample.get("instances", ()))

    return max(samples, key=size)


def _on_gpu(run: Run, trainer: Trainer, sample: dict[str, Any], largest: int) -> tuple[int, dict[int, int], int]:
    """Find the batch size by running steps; see `largest_that_fits`."""
    memory = torch.cuda.mem_get_info(run.device)[1]
    measured: dict[int, int] = {}

    def fits(images: int) -> bool:
        start = time.perf_counter()
        used = step_memory(trainer, sample, images)
        if used is None:
            logger.info("%d images do not fit.", images)
            return False
        measured[images] = used
        seconds = time.perf_counter() - start
        logger.info("%d images: %.2f GiB, %.2f s for the step.", images, used / GIB, seconds)
        return used <= MARGIN * memory

    images = largest_that_fits(fits, largest)
    return images, dict(sorted(measured.items())), memory


def step_memory(trainer: Trainer, sample: dict[str, Any], images: int) -> int | None:
    """The peak memory in bytes on the GPU of a training step with `images` equal images; None when they do not fit."""
    device = trainer.device
    trainer.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    batches = _repeated(sample, images)
    try:
        _one_step(trainer, batches)
        torch.cuda.synchronize(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return torch.cuda.max_memory_reserved(device)


def _one_step(trainer: Trainer, batches: Iterator[Batch]) -> None:
    """Run a training step with a learning rate of zero, so that the weights do not change."""
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    trainer.model.train()
    trainer.batches = [(0, 0)]
    with trainer.phases.measure():
        trainer.step(batches)


def _repeated(sample: dict[str, Any], images: int) -> Iterator[Batch]:
    while True:
        yield [sample] * images


def largest_that_fits(fits: Callable[[int], bool], largest: int) -> int:
    """The largest number up to `largest` for which `fits` holds, by doubling and then bisection; 0 when 1 does not fit.

    `fits` is called few times, and never for a number above one that did not fit.
    """
    if not fits(1):
        return 0
    below, above = 1, largest + 1
    while 2 * below < above and below < largest:
        candidate = min(2 * below, largest)
        if not fits(candidate):
            above = candidate
            break
        below = candidate
    while above - below > max(1, below // 8):  # to an eighth: batches are chosen among round numbers
        middle = (below + above) // 2
        if fits(middle):
            below = middle
        else:
            above = middle
    return below


def _on_cpu(run: Run, trainer: Trainer, sample: dict[str, Any], largest: int) -> tuple[int, dict[int, int], int]:
    """Compute the batch size from forward passes of one and of two images."""
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in trainer.parameters)
    trainer.model.train()
    with autocast(run):
        kept_by_one, kept_by_two = (bytes_kept(trainer.model, [sample] * images) for images in (1, 2))
    per_image = max(kept_by_two - kept_by_one, kept_by_one // 2, 1)
    # Gradients and two moments; the weights themselves are already in memory.
    fixed = 3 * parameters + max(kept_by_one - per_image, 0)
    memory = free_memory("cpu")
    if memory is None:
        raise ConfigError("this system does not say how much memory is free: no batch can be advised")

    def needed(images: int) -> int:
        return fixed + int(WORKSPACE * per_image * images)

    images = max(0, min(largest, int((MARGIN * memory - fixed) / (WORKSPACE * per_image))))
    return images, {count: needed(count) for count in sorted({1, 2, max(images, 1)})}, memory


def _advice(cfg: DictConfig, images: int, largest: int) -> str:
    if images == 0:
        return (
            "Not even one image fits. What helps: train.amp.enabled=True, train.activation_checkpointing=True, smaller "
            "images (dataloader.train.mapper.augmentation), a smaller model"
        )
    current = cfg.dataloader.train.total_batch_size
    cfg.dataloader.train.total_batch_size = images
    cfg.train.accumulate_steps = 1
    remark = "; more were not tried" if images == largest else ""
    return (
        f"To use it: dataloader.train.total_batch_size={images} for one process, or that times the number of "
        f"processes{remark}. The largest batch is usually not the best one: the config has {current}. A learning rate "
        f"that suits {images}: optimizer.lr={learning_rate(cfg):g}. More images per step without more memory: "
        "train.accumulate_steps"
    )
