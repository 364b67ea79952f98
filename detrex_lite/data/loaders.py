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


# The first word of what seeds the order of images, the augmentation of a sample and what is done to a whole batch.
_SAMPLE, _BATCH = 1, 2


@contextmanager
def _seeded(seed: int, kind: int, number: int) -> Iterator[None]:
    """Random numbers of torch (CPU), NumPy and Python that depend on the arguments alone, for a while."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    words = np.random.SeedSequence((seed, kind, number)).generate_state(3)
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


class _Unreadable(NamedTuple):
    """An image that cannot be used, by its position in the data set, and why."""

    image: int
    reason: str


class _MappedDataset(Dataset):
    """Records of a data set through a mapper, with random numbers that depend on the sample alone.

    Args:
        indices: (N,) positions of the images that `draw` of a record draws from.
        max_unreadable: how many images that cannot be read may be left out.
        replace: the next image that can be read takes their place; otherwise none does.
        mixup, multi_scale: what is done to a whole batch, in this order.
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
        """What a model gets as a batch, and what could not be read on the way."""
        unreadable: list[_Unreadable] = []
        loaded = [self._load(sample, batch.epoch, unreadable) for sample in batch]
        samples = [sample for sample in loaded if sample is not None]
        if self.mixup is None and self.multi_scale is None:
            return samples, unreadable

        def before() -> dict[str, Any]:
            if batch.before == batch[-1]:
                return samples[-1]
            other = self._load(batch.before, batch.epoch, unreadable)
            assert other is not None  # it is replaced where it cannot be read
            return other

        with _seeded(self.seed, _BATCH, batch.number):
            mixed = samples if self.mixup is None else self.mixup(samples, before, epoch=batch.epoch)
            return mixed if self.multi_scale is None else self.multi_scale(mixed, epoch=batch.epoch), unreadable

    def _load(self, sample: Sample, epoch: int, unreadable: list[_Unreadable]) -> dict[str, Any] | None:
        index, position = sample

        def draw(read: Callable[[dict[str, Any]], Any]) -> Any:
            other = int(self.indices[int(torch.randint(len(self.indices), ()))])
            return self._first_readable(other, read, unreadable)

        def load(record: dict[str, Any]) -> dict[str, Any]:
            with _seeded(self.seed, _SAMPLE, position):
                return self._mapped({**record, "epoch": epoch, "draw": draw})

        return self._first_readable(index, load, unreadable)

    def _first_readable(
        self, first: int, read: Callable[[dict[str, Any]], Any], unreadable: list[_Unreadable]
    ) -> Any | None:
        """What `read` makes of the record of image `first`, or of the next that it can read."""
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
        """An image that takes more memory than there is to resize is a DatasetError too."""
        try:
            return self.mapper(record)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            size = f"{record['height']}x{record['width']} (height x width)"
            raise DatasetError(
                f"image {record['file_name']} of {size} pixels needs more memory than there is"
            ) from error

    def __len__(self) -> int:
        return len(self.dataset)


def _too_many(unreadable: Sequence[_Unreadable], allowed: int) -> DatasetError:
    listed = "".join(f"\n  {one.reason}" for one in unreadable[:3])
    more = f"\n  and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    return DatasetError(
        f"{len(unreadable)} images cannot be read (max_unreadable={allowed} of the loader):{listed}{more}\n"
        "Is the folder of the images right, and its disk there? tools/check_dataset.py lists all faults"
    )


def _as_loaded(batch: Any) -> Any:
    """The data set makes whole batches, lists of samples, as models pad by themselves."""
    return batch


class _Loader(DataLoader):
    """Batches of samples. It runs in the process that trains, and so can report and count what its workers meet."""

    def __init__(self, dataset: _MappedDataset, **arguments: Any):
        super().__init__(dataset, collate_fn=_as_loaded, **arguments)
        self._images = dataset
        self._unreadable: dict[int, _Unreadable] = {}

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        return self._samples(super().__iter__())

    def _samples(self, batches: Iterator[Any]) -> Iterator[list[dict[str, Any]]]:
        images = self._images
        allowed = images.max_unreadable
        what_follows = "the next took its place" if images.replace else "objects in it count as missed"
        for samples, unreadable in batches:
            for one in unreadable:
                if one.image not in self._unreadable:  # each epoch meets it again
                    self._unreadable[one.image] = one
                    count = len(self._unreadable)
                    logger.warning("Left out image %d of at most %d, %s: %s", count, allowed, what_follows, one.reason)
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
    max_unreadable: int = 10,
    mixup: Mixup | None = None,
    multi_scale: MultiScale | None = None,
) -> DataLoader:
    """An endless loader of training batches, each a list of what `mapper` returns.

    Order and augmentation depend on the seed alone, not on the number of processes or `num_workers`. Set
    `loader.batch_sampler.start_batch` before iterating to begin with a later batch.

    `mapper` gets the records of `dataset` with two further keys: `epoch`, of the run, from 0, and `draw`, a function
    that reads another image: `draw(read)` returns `read(record)` of a random image that can be read.

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
        max_unreadable: images that may be missing, broken, too large for the memory or of another size than
            annotated, in each process. The next image of the data set takes the place of such a one, with a warning;
            one more ends training.
        mixup: mixes each image of a batch with another, before `multi_scale`.
        multi_scale: resizes the images of a batch to one size that is drawn for it.

    Raises:
        DatasetError: when no image has a box, or `limit` is below 1; while iterating, when too many images cannot be
            read.
        ValueError: when the batch cannot be shared out evenly, a number is out of range, or there is nothing to mix an
            image with.
    """
    if mixup is not None and total_batch_size == 1:
        raise ValueError("mixup mixes an image with another of its batch, and total_batch_size=1 has none")
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
    """A loader that gives every image once, in order; each process gets its own part, and no image is in two.

    Args:
        dataset: images, with or without boxes.
        mapper: e.g. `DetrDatasetMapper`.
        batch_size: images a batch of one process.
        num_workers: loading processes of each process; 0 loads in the process itself.
        prefetch_factor: batches that each worker loads ahead.
        max_unreadable: images that may be missing, broken, too large for the memory or of another size than
            annotated, in each process. Such a one is left out, with a warning, and an evaluator counts its objects as
            missed; one more ends the iteration.

    Raises:
        DatasetError: while iterating, when too many images cannot be read, or all.
        ValueError: when a number is out of range.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    batches = sequential_batches(len(dataset), batch_size=batch_size, rank=rank(), world_size=world_size())
    indices = np.arange(len(dataset))
    mapped = _MappedDataset(dataset, mapper, indices=indices, seed=0, max_unreadable=max_unreadable, replace=False)
    return _loader(mapped, batches, num_workers, prefetch_factor)


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


def mapped_sample(loader: DataLoader, dataset: DetectionDataset, index: int) -> dict[str, Any] | None:
    """What the mapper of a loader makes of image `index` of a data set, with random numbers of its own.

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
