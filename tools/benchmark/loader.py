"""The number of training images that one core prepares in a second, and the time of each part."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from detrex_lite.config import LazyConfig, instantiate
from detrex_lite.data import DetrDatasetMapper, detr_train_augmentation

from .errors import BenchmarkError, require_positive
from .machine import machine_facts
from .photographs import generated_photographs
from .stages import StagesReport
from .timing import Timing

WHOLE = "image"
BATCH = 16  # images in each call of mixup and of multi-scale batches


def benchmark_loader(
    file: str | None = None,
    overrides: Sequence[str] = (),
    *,
    images: int = 64,
    repeats: int = 5,
    epoch: int = 0,
    photographs: bool = False,
) -> StagesReport:
    """Prepare training images as a data loader worker does, in one thread: read, decode, augment, pack, batch.

    Args:
        file: a config, whose `dataloader.train` is measured; None measures DETR's augmentation on synthetic
            photographs.
        overrides: config overrides.
        images: number of images, the first ones of the data set.
        repeats: how often each image is prepared.
        epoch: epoch of the run, on which the augmentation may depend.
        photographs: use synthetic photographs instead of the config's data set.

    Raises:
        ConfigError: when the config or an override is wrong.
        BenchmarkError: when the config has no data set or no mapper, or its mapper cannot be measured by parts.
    """
    require_positive(images=images, repeats=repeats)
    settings = {
        "config": file,
        "overrides": list(overrides),
        "images": images,
        "repeats": repeats,
        "epoch": epoch,
        "photographs": photographs,
    }
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        config = None if file is None else _train_section(file, overrides)
        if config is None or photographs:
            dataset: Any = generated_photographs(Path(folder), images)
        else:
            dataset = instantiate(config.dataset)
        mapper: Any = DetrDatasetMapper(augmentation=detr_train_augmentation(), is_train=True)
        mixup = multi_scale = None
        if config is not None:
            mapper, mixup, multi_scale = (
                instantiate(config[name]) if config.get(name) is not None else None
                for name in ("mapper", "mixup", "multi_scale")
            )
            if not isinstance(mapper, DetrDatasetMapper):
                raise BenchmarkError(
                    f"{file}: only a DetrDatasetMapper can be measured by its parts, not {type(mapper).__name__}"
                )
        machine = machine_facts(torch.device("cpu"))

        def draw(read: Callable[[dict[str, Any]], Any]) -> Any:
            return read(dataset[int(torch.randint(len(dataset), ()))])

        records = [{**dataset[index], "epoch": epoch, "draw": draw} for index in range(min(images, len(dataset)))]

        def finish(samples: list[dict[str, Any]]) -> None:
            mixed = samples if mixup is None else mixup(samples, lambda: samples[-1], epoch=epoch)
            if multi_scale is not None:
                multi_scale(mixed, epoch=epoch)

        torch.manual_seed(0)
        mapper(records[0])
        has_batches = mixup is not None or multi_scale is not None
        timings = _measure(mapper, finish if has_batches else None, records * repeats)
    median = timings[WHOLE].median
    mean = sum(timings[WHOLE].seconds) / len(timings[WHOLE].seconds)
    limit = max((part for part in timings if part != WHOLE), key=lambda part: sum(timings[part].seconds))
    return StagesReport(
        title=f"Training images, {file or 'made up, 640x480'}: one thread",
        machine=machine,
        settings=settings,
        timings=timings,
        whole=WHOLE,
        rates={"images/s per core": 1 / mean, "images/s per core by the median": 1 / median},
        notes=[f"The limit is: {limit}."],
    )


def _train_section(file: str, overrides: Sequence[str]) -> DictConfig:
    config = LazyConfig.apply_overrides(LazyConfig.load(file), list(overrides))
    train = OmegaConf.select(config, "dataloader.train")
    if not isinstance(train, DictConfig) or "dataset" not in train or "mapper" not in train:
        raise BenchmarkError(f"{file} has no dataloader.train with a dataset and a mapper")
    return train


def _measure(
    mapper: DetrDatasetMapper,
    finish: Callable[[list[dict[str, Any]]], None] | None,
    records: Sequence[dict[str, Any]],
) -> dict[str, Timing]:
    parts = ("read", "decode", "augment", "pack")
    seconds: dict[str, list[float]] = {part: [] for part in (WHOLE, *parts, *(["batch"] if finish else []))}
    for first in range(0, len(records), BATCH):
        samples, wholes = [], []
        for record in records[first : first + BATCH]:
            begin = time.perf_counter()
            # An additional read: the mapper's own then comes from the page cache, so that "decode" is decoding alone.
            Path(record["file_name"]).read_bytes()
            was_read = time.perf_counter()
            decoded = mapper.read(record)
            was_decoded = time.perf_counter()
            augmented = mapper.augment(*decoded, **mapper.context(record))
            was_augmented = time.perf_counter()
            samples.append(mapper.pack(record, *augmented))
            marks = begin, was_read, was_decoded, was_augmented, time.perf_counter()
            wholes.append(marks[-1] - begin)
            for part, start, end in zip(parts, marks, marks[1:], strict=False):
                seconds[part].append(end - start)
        batch_seconds = 0.0
        if finish is not None:
            begin = time.perf_counter()
            finish(samples)
            batch_seconds = (time.perf_counter() - begin) / len(samples)
            seconds["batch"] += [batch_seconds] * len(samples)
        seconds[WHOLE] += [whole + batch_seconds for whole in wholes]
    return {part: Timing(tuple(values)) for part, values in seconds.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, torch uses one thread, as in data loader workers."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
