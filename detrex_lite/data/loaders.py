"""Loaders of training and test images."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..distributed import broadcast_object, rank, world_size
from .dataset import DetectionDataset, subset
from .faults import DatasetError
from .samplers import Sample, TrainBatchSampler, sequential_batches

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def _seeded(seed: int, position: int) -> Iterator[None]:
    """Random numbers of torch (CPU), NumPy and Python that depend on the arguments alone, for a while."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    words = np.random.SeedSequence((seed, 1, position)).generate_state(3)
    # Not torch.manual_seed, which would seed the GPU too.
    torch.random.default_generator.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[2]))
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


class _MappedDataset(Dataset):
    """Records of a data set through a mapper, with random numbers that depend on the sample alone."""

    def __init__(self, dataset: DetectionDataset, mapper: Mapper, seed: int):
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed

    def __getitem__(self, sample: Sample) -> dict[str, Any]:
        index, position = sample
        with _seeded(self.seed, position):
            return self.mapper(self.dataset[index])

    def __len__(self) -> int:
        return len(self.dataset)


def _as_list(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return samples  # models pad by themselves


def _loader(dataset: Dataset, batch_sampler: Any, num_workers: int, prefetch_factor: int) -> DataLoader:
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}")
    return DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=num_workers,
        collate_fn=_as_list,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        prefetch_factor=prefetch_factor if num_workers > 0 else None,
        # Its own generator: the loader would otherwise draw from the global one, whose state a resumed run
        # restores.
        generator=torch.Generator().manual_seed(0),
    )


def build_train_loader(
    *,
    dataset: DetectionDataset,
    mapper: Mapper,
    total_batch_size: int,
    num_workers: int = 2,
    seed: int = 0,
    aspect_ratio_grouping: bool = True,
    filter_empty: bool = False,
    limit: int | None = None,
    prefetch_factor: int = 2,
) -> DataLoader:
    """An endless loader of training batches, each a list of what `mapper` returns.

    Order and augmentation depend on the seed and the number of processes alone, not on `num_workers`. Set
    `loader.batch_sampler.start_batch` before iterating to begin with a later batch.

    Args:
        dataset: images with boxes.
        mapper: e.g. `DetrDatasetMapper`.
        total_batch_size: images a batch, of all processes together.
        num_workers: loading processes of each process; 0 loads in the process itself.
        seed: of shuffling and augmentation; negative for another one each time, the same for all processes.
        aspect_ratio_grouping: fill a batch with either wide or high images, so that less padding is needed.
        filter_empty: leave out images without objects. The default keeps them, as DETR's published code does.
        limit: use the first so many images only, e.g. to see whether a model can overfit them.
        prefetch_factor: batches that each worker loads ahead.

    Raises:
        DatasetError: when no image has a box, or `limit` is below 1.
        ValueError: when the batch cannot be shared out evenly, or a number is out of range.
    """
    processes = world_size()
    if total_batch_size < 1 or total_batch_size % processes:
        raise ValueError(f"total_batch_size {total_batch_size} cannot be shared by {processes} processes evenly")
    if seed < 0:
        seed = broadcast_object(random.SystemRandom().getrandbits(31))
    if limit is not None:
        dataset = subset(dataset, limit)
    objects = dataset.objects_per_image()
    if not objects.any():
        what = "no annotations" if not dataset.has_annotations else "no box that training can use"
        raise DatasetError(f"no image has a box: data set {dataset.name!r} with {len(dataset)} images has {what}")
    indices = np.flatnonzero(objects) if filter_empty else np.arange(len(dataset))
    wide = (dataset.widths > dataset.heights)[indices]
    sampler = TrainBatchSampler(
        indices=indices,
        groups=wide if aspect_ratio_grouping else np.zeros(len(indices)),
        batch_size=total_batch_size // processes,
        seed=seed,
        rank=rank(),
        world_size=processes,
    )
    return _loader(_MappedDataset(dataset, mapper, seed), sampler, num_workers, prefetch_factor)


def build_test_loader(
    *,
    dataset: DetectionDataset,
    mapper: Mapper,
    batch_size: int = 1,
    num_workers: int = 2,
    prefetch_factor: int = 2,
) -> DataLoader:
    """A loader that gives every image once, in order; each process gets its own part.

    Args:
        dataset: images, with or without boxes.
        mapper: e.g. `DetrDatasetMapper`.
        batch_size: images a batch of one process.
        num_workers: loading processes of each process; 0 loads in the process itself.
        prefetch_factor: batches that each worker loads ahead.

    Raises:
        ValueError: when a number is out of range.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    batches = sequential_batches(len(dataset), batch_size=batch_size, rank=rank(), world_size=world_size())
    return _loader(_MappedDataset(dataset, mapper, seed=0), batches, num_workers, prefetch_factor)


def epoch_length(loader: DataLoader) -> int:
    """How many batches of a training loader make an epoch: images by total batch size, rounded up.

    Raises:
        ValueError: when the loader was not made by `build_train_loader`.
    """
    sampler = loader.batch_sampler
    if not isinstance(sampler, TrainBatchSampler):
        raise ValueError(
            f"only loaders of build_train_loader have an epoch length, got one of a {type(sampler).__name__}"
        )
    return sampler.batches_per_epoch


def dataset_of(loader: DataLoader) -> DetectionDataset | None:
    """The data set that a loader of this module reads; None for other loaders."""
    mapped = getattr(loader, "dataset", None)
    return mapped.dataset if isinstance(mapped, _MappedDataset) else None
