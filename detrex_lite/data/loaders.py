"""Loaders of training and test images."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..devices import is_out_of_memory
from ..distributed import broadcast_object, rank, world_size
from .batches import Mixup, MultiScale
from .dataset import DetectionDataset, subset
from .faults import DatasetError
from .samplers import Batch, Sample, TrainBatchSampler, sequential_batches

logger = logging.getLogger(__name__)

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


# Part of the seeds of random numbers, so that those of samples and of whole batches differ.
_SAMPLE, _BATCH = 1, 2


@contextmanager
def _seeded(seed: int, kind: int, number: int) -> Iterator[None]:
    """Seed the random numbers of torch (CPU), NumPy and Python by the arguments; restores their states at the end."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    words = np.random.SeedSequence((seed, kind, number)).generate_state(3)
    # Not torch.manual_seed, which would also seed the GPU.
    torch.random.default_generator.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[2]))
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


class _Unreadable(NamedTuple):
    """The position in the data set of an image that cannot be used, and the reason."""

    image: int
    reason: str


class _MappedDataset(Dataset):
    """Applies a mapper to records of a data set, with random numbers that depend only on the sample.

    Args:
        indices: (N,) positions of the images that `draw` of a record draws from.
        max_unreadable: the number of unreadable images that may be left out.
        replace: replace unreadable images by the next readable image; otherwise they are left out.
        mixup, multi_scale: transforms of whole batches, applied in this order.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        mapper: Mapper,
        *,
        indices: np.ndarray,
        seed: int,
        max_unreadable: int,
        replace: bool,
        mixup: Mixup | None = None,
        multi_scale: MultiScale | None = None,
    ):
        self.dataset = dataset
        self.mapper = mapper
        self.indices = indices
        self.seed = seed
        self.max_unreadable = max_unreadable
        self.replace = replace
        self.mixup = mixup
        self.multi_scale = multi_scale

    def __getitems__(self, batch: Batch) -> tuple[list[dict[str, Any]], list[_Unreadable]]:
        """Return the samples of a batch, and the images that could not be read."""
        unreadable: list[_Unreadable] = []
        loaded = [self._load(sample, batch.epoch, unreadable) for sample in batch]
        samples = [sample for sample in loaded if sample is not None]
        if self.mixup is None and self.multi_scale is None:
            return samples, unreadable

        def before() -> dict[str, Any]:
            if batch.before == batch[-1]:
                return samples[-1]
            previous = self._load(batch.before, batch.epoch, unreadable)
            assert previous is not None  # unreadable images are replaced
            return previous

        with _seeded(self.seed, _BATCH, batch.number):
            mixed = samples if self.mixup is None else self.mixup(samples, before, epoch=batch.epoch)
            return mixed if self.multi_scale is None else self.multi_scale(mixed, epoch=batch.epoch), unreadable

    def _load(self, sample: Sample, epoch: int, unreadable: list[_Unreadable]) -> dict[str, Any] | None:
        index, position = sample

        def draw(read: Callable[[dict[str, Any]], Any]) -> Any:
            drawn = int(self.indices[int(torch.randint(len(self.indices), ()))])
            return self._first_readable(drawn, read, unreadable)

        def load(record: dict[str, Any]) -> dict[str, Any]:
            with _seeded(self.seed, _SAMPLE, position):
                return self._mapped({**record, "epoch": epoch, "draw": draw})

        return self._first_readable(index, load, unreadable)

    def _first_readable(
        self, first: int, read: Callable[[dict[str, Any]], Any], unreadable: list[_Unreadable]
    ) -> Any | None:
        """Return the result of `read` for the record of image `first`, or of the next image that it can read."""
        left_out: list[_Unreadable] = []
        while True:
            index = (first + len(left_out)) % len(self.dataset)
            try:
                return read(self.dataset[index])
            except DatasetError as error:
                if self.max_unreadable == 0:
                    raise
                left_out.append(_Unreadable(index, str(error)))
                unreadable.append(left_out[-1])
                if not self.replace:
                    return None
                if len(left_out) > min(self.max_unreadable, len(self.dataset) - 1):
                    raise _too_many(left_out, self.max_unreadable) from None

    def _mapped(self, record: dict[str, Any]) -> dict[str, Any]:
        """Apply the mapper; raises a DatasetError also if resizing an image needs more memory than is available."""
        try:
            return self.mapper(record)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            size = f"{record['height']}x{record['width']} (height x width)"
            raise DatasetError(
                f"image {record['file_name']} of {size} pixels needs more memory than is available"
            ) from error

    def __len__(self) -> int:
        return len(self.dataset)


def _too_many(unreadable: Sequence[_Unreadable], allowed: int) -> DatasetError:
    listed = "".join(f"\n  {image.reason}" for image in unreadable[:3])
    more = f"\n  and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    return DatasetError(
        f"{len(unreadable)} images cannot be read (max_unreadable={allowed} of the loader):{listed}{more}\n"
        "Is the folder of the images right, and its disk there? tools/check_dataset.py lists all faults"
    )


def _as_loaded(batch: Any) -> Any:
    """Return a batch unchanged: the data set returns lists of samples, which models pad."""
    return batch


class _Loader(DataLoader):
    """Yields batches of samples. Runs in the training process, so it can count and report faults of all its workers."""

    def __init__(self, dataset: _MappedDataset, **arguments: Any):
        super().__init__(dataset, collate_fn=_as_loaded, **arguments)
        self._images = dataset
        self._unreadable: dict[int, _Unreadable] = {}

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        return self._samples(super().__iter__())

    def _samples(self, batches: Iterator[Any]) -> Iterator[list[dict[str, Any]]]:
        images = self._images
        allowed = images.max_unreadable
        consequence = "the next took its place" if images.replace else "objects in it count as missed"
        for samples, unreadable in batches:
            for fault in unreadable:
                if fault.image not in self._unreadable:  # each epoch reads it again
                    self._unreadable[fault.image] = fault
                    count = len(self._unreadable)
                    logger.warning("Left out image %d of at most %d, %s: %s", count, allowed, consequence, fault.reason)
            if len(self._unreadable) > min(allowed, len(images) - 1):
                raise _too_many(list(self._unreadable.values()), allowed)
            if samples:
                yield samples


def _loader(dataset: _MappedDataset, batch_sampler: Any, num_workers: int, prefetch_factor: int) -> DataLoader:
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}")
    if dataset.max_unreadable < 0:
        raise ValueError(f"max_unreadable must not be negative, got {dataset.max_unreadable}")
    return _Loader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        prefetch_factor=prefetch_factor if num_workers > 0 else None,
        # A separate generator, because the loader would otherwise draw from the global one, whose state a resumed
        # run restores.
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
    max_unreadable: int = 10,
    mixup: Mixup | None = None,
    multi_scale: MultiScale | None = None,
) -> DataLoader:
    """Build an endless loader of training batches, which are lists of results of `mapper`.

    Order and augmentation depend only on the seed, not on the number of processes or `num_workers`. Set
    `loader.batch_sampler.start_batch` before iterating to begin with a later batch.

    `mapper` gets the records of `dataset` with two additional keys: `epoch`, the epoch of the run from 0, and `draw`, a
    function that reads another image: `draw(read)` returns `read(record)` for a random image that can be read.

    Args:
        dataset: images with boxes.
        mapper: e.g. `DetrDatasetMapper`.
        total_batch_size: number of images in a batch of all processes together.
        num_workers: number of loading processes of each process; 0 loads in the process itself.
        seed: seed of shuffling and augmentation; a negative seed draws a new seed, which is the same in all processes.
        aspect_ratio_grouping: fill a batch with either wide or high images, so that less padding is needed.
        filter_empty: leave out images without objects. The default keeps them, like DETR's published code.
        limit: use only this many images, the first ones, e.g. to test whether a model can overfit them.
        prefetch_factor: number of batches that each worker loads in advance.
        max_unreadable: number of images, in each process, that may be missing, broken, too large for the memory or of
            another size than annotated. Each is replaced by the next image of the data set, with a warning; one more
            ends training.
        mixup: mixes each image of a batch with another image, before `multi_scale`.
        multi_scale: resizes the images of a batch to one random size.

    Raises:
        DatasetError: when no image has a box, or `limit` is below 1; while iterating, when too many images cannot be
            read.
        ValueError: when the batch cannot be divided evenly among processes, a number is out of range, or mixup has no
            second image.
    """
    if mixup is not None and total_batch_size == 1:
        raise ValueError("mixup mixes an image with another of its batch, but with total_batch_size=1 there is none")
    if seed < 0:
        seed = broadcast_object(random.SystemRandom().getrandbits(31))
    if limit is not None:
        dataset = subset(dataset, limit)
    objects = dataset.objects_per_image()
    if not objects.any():
        lacking = "no annotations" if not dataset.has_annotations else "no box that training can use"
        raise DatasetError(f"no image has a box: data set {dataset.name!r} with {len(dataset)} images has {lacking}")
    indices = np.flatnonzero(objects) if filter_empty else np.arange(len(dataset))
    wide = (dataset.widths > dataset.heights)[indices]
    sampler = TrainBatchSampler(
        indices=indices,
        groups=wide if aspect_ratio_grouping else np.zeros(len(indices)),
        batch_size=total_batch_size,
        seed=seed,
        rank=rank(),
        world_size=world_size(),
    )
    mapped = _MappedDataset(
        dataset,
        mapper,
        indices=indices,
        seed=seed,
        max_unreadable=max_unreadable,
        replace=True,
        mixup=mixup,
        multi_scale=multi_scale,
    )
    return _loader(mapped, sampler, num_workers, prefetch_factor)


def build_test_loader(
    *,
    dataset: DetectionDataset,
    mapper: Mapper,
    batch_size: int = 1,
    num_workers: int = 2,
    prefetch_factor: int = 2,
    max_unreadable: int = 10,
) -> DataLoader:
    """Build a loader that yields every image once, in order. Each image is loaded in exactly one process.

    Args:
        dataset: images, with or without boxes.
        mapper: e.g. `DetrDatasetMapper`.
        batch_size: number of images in a batch of one process.
        num_workers: number of loading processes of each process; 0 loads in the process itself.
        prefetch_factor: number of batches that each worker loads in advance.
        max_unreadable: number of images, in each process, that may be missing, broken, too large for the memory or of
            another size than annotated. They are left out, with a warning, and evaluators count their objects as
            missed; one more ends the iteration.

    Raises:
        DatasetError: while iterating, when too many images or all images cannot be read.
        ValueError: when a number is out of range.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    batches = sequential_batches(len(dataset), batch_size=batch_size, rank=rank(), world_size=world_size())
    indices = np.arange(len(dataset))
    mapped = _MappedDataset(dataset, mapper, indices=indices, seed=0, max_unreadable=max_unreadable, replace=False)
    return _loader(mapped, batches, num_workers, prefetch_factor)


def epoch_length(loader: DataLoader) -> int:
    """Return the number of batches in an epoch of a training loader: images / total batch size, rounded up.

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
    """Return the data set of a loader of this module; None for other loaders."""
    mapped = getattr(loader, "dataset", None)
    return mapped.dataset if isinstance(mapped, _MappedDataset) else None


def mapped_sample(loader: DataLoader, dataset: DetectionDataset, index: int) -> dict[str, Any] | None:
    """Apply the mapper of a loader to image `index` of a data set, with separate random numbers.

    Returns:
        The sample; None for loaders that are not of this module.

    Raises:
        DatasetError: when the image cannot be read.
    """
    mapped = getattr(loader, "dataset", None)
    if not isinstance(mapped, _MappedDataset):
        return None

    def draw(read: Callable[[dict[str, Any]], Any]) -> Any:
        return read(dataset[int(torch.randint(len(dataset), ()))])

    with _seeded(0, _SAMPLE, index):
        return mapped._mapped({**dataset[index], "epoch": 0, "draw": draw})
