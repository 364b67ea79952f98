"""Which images each process loads, in which order and batches."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# A sample to load: the image's position in the data set, and the sample's position in the stream of all
# samples. The second seeds the augmentation, which so depends on neither the worker nor the process.
Sample = tuple[int, int]


class Batch(list[Sample]):
    """The samples of a batch that one process loads, and where in the run the batch is.

    Workers load ahead of training, and so learn the epoch of a sample from here.

    Attributes:
        number: of the batch since the start of the run, from 0.
        epoch: of the run, from 0; it ends after `batches_per_epoch` batches.
        before: the sample that comes before the first one of these in the batch of all processes; before the first of
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
    """Endless batches, of which each process gets its part: a pure function of the seed, whatever the processes.

    There is one stream of samples: one shuffled epoch after the other. It is cut into batches of images of one group;
    what is left of a group at the end of an epoch waits for the next, so that no image is lost. Process r of W gets the
    r-th of W equal parts of each batch: another number of processes sees the same batches in the same order.

    Args:
        indices: (N,) positions of the images to draw from.
        groups: (N,) int group of each; a batch is of one group.
        batch_size: images a batch, of all processes together.
        seed: of the shuffling, not negative.
        rank, world_size: this process's number, and how many there are.

    Attributes:
        start_batch: number of batches to leave out at the start of the next iteration.
        first_sizes: (images a batch, number of batches) of the first batches, where they were of other sizes: a run
            that goes on with another batch size repeats and skips no image.

    Raises:
        ValueError: when the processes cannot share a batch evenly.
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
        """How many batches show as many images as there are, rounded up."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        skip = number = self.start_batch
        for batches in self._batches():
            share = batches.shape[1] // self.world_size
            first = self.rank * share
            for batch in batches[skip:]:
                samples = [(int(self.indices[place]), int(position)) for position, place in batch]
                yield Batch(
                    samples[first : first + share],
                    number=number,
                    epoch=number // self.batches_per_epoch,
                    before=samples[first - 1],
                )
                number += 1
            skip = max(skip - len(batches), 0)

    def _batches(self) -> Iterator[np.ndarray]:
        """The stream in arrays (M, images a batch, 2) of stream position and place in `indices`."""
        sizes = list(self.first_sizes)
        samples = np.zeros((0, 2), dtype=np.int64)
        for epoch in itertools.count():
            samples = np.concatenate([samples, self._order(epoch)])
            while sizes:
                size, count = sizes[0]
                batches, left = self._into_batches(samples, size, at_most=count)
                yield batches
                samples = left
                sizes[0] = size, count - len(batches)
                if sizes[0][1] > 0:
                    break  # the epoch is at its end
                sizes.pop(0)
            if not sizes:
                batches, samples = self._into_batches(samples, self.batch_size)
                yield batches

    def _order(self, epoch: int) -> np.ndarray:
        """(N, 2): stream position and place in `indices` of the samples of an epoch."""
        count = len(self.indices)
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(count)
        return np.stack([np.arange(epoch * count, (epoch + 1) * count), order], axis=-1)

    def _into_batches(
        self, samples: np.ndarray, size: int, at_most: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Full batches (M, size, 2) in the order of their last samples, and the samples left over in theirs."""
        groups = self.groups[samples[:, 1]]
        full = [np.zeros((0, size, 2), dtype=np.int64)]
        for group in np.unique(groups):
            members = samples[groups == group]
            full.append(members[: len(members) // size * size].reshape(-1, size, 2))
        together = np.concatenate(full)
        together = together[np.argsort(together[:, -1, 0])][:at_most]
        return together, samples[~np.isin(samples[:, 0], together[:, :, 0])]


def sequential_batches(num_images: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
    """Batches of this process's part of 0..num_images-1, in order; together the parts are the whole."""
    start, end = (num_images * part // world_size for part in (rank, rank + 1))
    samples = [(index, index) for index in range(start, end)]
    return [Batch(samples[first : first + batch_size]) for first in range(0, len(samples), batch_size)]
