"""How many images a core can prepare in a second, and what takes the time."""

import tempfile
import time
from collections.abc import Iterator, Sequence
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


def benchmark_loader(
    file: str | None = None, overrides: Sequence[str] = (), *, images: int = 64, repeats: int = 5
) -> StagesReport:
    """Prepare training images as a worker of a loader does, in one thread: read, decode, augment, pack.

    Args:
        file: a config, whose `dataloader.train.dataset` and `.mapper` are measured; None takes DETR's augmentation on
            photographs that are made up.
        overrides: of the config.
        images: how many; the first ones of the data set.
        repeats: how often each.

    Raises:
        ConfigError: when the config or an override is wrong.
        BenchmarkError: when the config has no such parts.
    """
    require_positive(images=images, repeats=repeats)
    settings = {"config": file, "overrides": list(overrides), "images": images, "repeats": repeats}
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        if file is None:
            dataset: Any = generated_photographs(Path(folder), images)
            mapper: Any = DetrDatasetMapper(augmentation=detr_train_augmentation(), is_train=True)
        else:
            dataset, mapper = _parts(file, overrides)
        machine = machine_facts(torch.device("cpu"))
        records = [dataset[index] for index in range(min(images, len(dataset)))]
        torch.manual_seed(0)
        mapper(records[0])
        timings = _measure(mapper, records * repeats)
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


def _parts(file: str, overrides: Sequence[str]) -> tuple[Any, Any]:
    config = LazyConfig.apply_overrides(LazyConfig.load(file), list(overrides))
    train = OmegaConf.select(config, "dataloader.train")
    if not isinstance(train, DictConfig) or "dataset" not in train or "mapper" not in train:
        raise BenchmarkError(f"{file} has no dataloader.train with a dataset and a mapper")
    dataset, mapper = instantiate(train.dataset), instantiate(train.mapper)
    if not isinstance(mapper, DetrDatasetMapper):
        raise BenchmarkError(
            f"{file}: only a DetrDatasetMapper can be measured by its parts, not {type(mapper).__name__}"
        )
    return dataset, mapper


def _measure(mapper: DetrDatasetMapper, records: Sequence[dict[str, Any]]) -> dict[str, Timing]:
    seconds: dict[str, list[float]] = {part: [] for part in (WHOLE, "read", "decode", "augment", "pack")}
    for record in records:
        begin = time.perf_counter()
        # Once more than the mapper does: from the system's memory the second time, so that it is decoding alone.
        Path(record["file_name"]).read_bytes()
        was_read = time.perf_counter()
        decoded = mapper.read(record)
        was_decoded = time.perf_counter()
        augmented = mapper.augment(*decoded)
        was_augmented = time.perf_counter()
        mapper.pack(record, *augmented)
        marks = begin, was_read, was_decoded, was_augmented, time.perf_counter()
        seconds[WHOLE].append(marks[-1] - begin)
        for part, start, end in zip(list(seconds)[1:], marks, marks[1:], strict=False):
            seconds[part].append(end - start)
    return {part: Timing(tuple(values)) for part, values in seconds.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """As loaders' workers have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
