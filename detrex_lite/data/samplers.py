"""Assignment of images to processes, with their order and batches."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# A sample to load: the image's index in the data set, and the sample's position in the stream of all samples. The
# position seeds the augmentation, which therefore depends on neither the worker nor the process.
Sample = tuple[int, int]


class Batch(list[Sample]):
    """The samples of a batch that one process loads, and the position of the batch in the run.

    Workers load ahead of training, so they get the epoch of a sample from here.

    Attributes:
        number: number of the batch since the start of the run, from 0.
        epoch: epoch of the run, from 0; it ends after `batches_per_epoch` batches.
        before: the sample before the first one of these in the batch of all processes; for the first sample of the
            batch, the last one.
            all it is the last.
    """

    def __init__(
        self, samples: Iterable[Sample], *, number: int = 0, epoch: int = 0, before: Sample | None = None
    ) -> None:
        super().__init__(samples)
        self.number = number
        self.epoch = epoch
        self.before = self[-1] if before is None else before


class TrainBatchSampler:
    """Endless batches, shared by the processes: a pure function of the seed, independent of the number of processes.

    There is one stream of samples: one shuffled epoch after the other. It is divided into batches of images of one
    group; the remainder of a group at the end of an epoch is used in the next one, so that no image is lost. Process r
    of W gets the r-th of W equal parts of each batch, so any number of processes sees the same batches in the same
    order.

    Args:
        indices: (N,) indices of the images to draw from.
        groups: (N,) int group of each image; a batch has images of one group.
        batch_size: images per batch, of all processes together.
        seed: seed of the shuffling, not negative.
        rank, world_size: number of this process, and number of processes.

    Attributes:
        start_batch: number of batches to skip at the start of the next iteration.
        first_sizes: (images per batch, number of batches) of the first batches, if they had other sizes: a run that is
            resumed with another batch size neither repeats nor skips images.

    Raises:
        ValueError: when the processes cannot share a batch equally.
    """

    def __init__(
        self,
        *,
        indices: np.ndarray,
        groups: np.ndarray,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size < 1 or batch_size % world_size:
            lower = max(batch_size, 0) // world_size * world_size
            near = " or ".join(str(size) for size in (lower, lower + world_size) if size)
            raise ValueError(
                f"total_batch_size={batch_size} cannot be shared evenly by {world_size} process"
                f"{'es' * (world_size > 1)}; the nearest that can: {near}"
            )
        self.indices = np.asarray(indices, dtype=np.int64)
        self.groups = np.asarray(groups, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_batch = 0
        self.first_sizes: Sequence[tuple[int, int]] = ()

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches with as many images as the data set, rounded up."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        skip = number = self.start_batch
        for batches in self._batches():
            share = batches.shape[1] // self.world_size
            first = self.rank * share
            for batch in batches[skip:]:
                samples = [(int(self.indices[index]), int(position)) for position, index in batch]
                yield Batch(
                    samples[first : first + share],
                    number=number,
                    epoch=number // self.batches_per_epoch,
                    before=samples[first - 1],
                )
                number += 1
            skip = max(skip - len(batches), 0)

    def _batches(self) -> Iterator[np.ndarray]:
        """Generate the stream in arrays (M, images per batch, 2) of stream position and index in `indices`."""
        sizes = list(self.first_sizes)
        samples = np.zeros((0, 2), dtype=np.int64)
        for epoch in itertools.count():
            samples = np.concatenate([samples, self._order(epoch)])
            while sizes:
                size, count = sizes[0]
                batches, remaining = self._into_batches(samples, size, at_most=count)
                yield batches
                samples = remaining
                sizes[0] = size, count - len(batches)
                if sizes[0][1] > 0:
                    break  # the epoch is at its end
                sizes.pop(0)
            if not sizes:
                batches, samples = self._into_batches(samples, self.batch_size)
                yield batches

    def _order(self, epoch: int) -> np.ndarray:
        """Return stream position and index in `indices` of the samples of an epoch, (N, 2)."""
        count = len(self.indices)
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(count)
        return np.stack([np.arange(epoch * count, (epoch + 1) * count), order], axis=-1)

    def _into_batches(
        self, samples: np.ndarray, size: int, at_most: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return full batches (M, size, 2) in the order of their last samples, and the remaining samples in order."""
        groups = self.groups[samples[:, 1]]
        full = [np.zeros((0, size, 2), dtype=np.int64)]
        for group in np.unique(groups):
            members = samples[groups == group]
            full.append(members[: len(members) // size * size].reshape(-1, size, 2))
        together = np.concatenate(full)
        together = together[np.argsort(together[:, -1, 0])][:at_most]
        return together, samples[~np.isin(samples[:, 0], together[:, :, 0])]


def sequential_batches(num_images: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
    """Split 0..num_images-1 into consecutive batches, and return those of this process."""
    start, end = (num_images * part // world_size for part in (rank, rank + 1))
    samples = [(index, index) for index in range(start, end)]
    return [Batch(samples[first : first + batch_size]) for first in range(0, len(samples), batch_size)]
