"""Which images each process loads, in which order and batches."""

from collections.abc import Iterator

import numpy as np

# A sample to load: the image's position in the data set, and the sample's position in the stream of all
# samples. The second seeds the augmentation, which so depends on neither the worker nor the process.
Sample = tuple[int, int]


class TrainBatchSampler:
    """Endless batches of one process: a pure function of the seed, the rank and the number of processes.

    All processes share one stream: one shuffled epoch after the other. Sample i of it belongs to process
    i % world_size, which fills batches of images of one group; what is left of a group at the end of an epoch
    waits for the next, so that no image is lost.

    Args:
        indices: (N,) positions of the images to draw from.
        groups: (N,) int group of each; a batch is of one group.
        batch_size: images a batch of this process.
        seed: of the shuffling, not negative.
        rank, world_size: this process's number, and how many there are.

    Attributes:
        start_batch: number of batches to leave out at the start of the next iteration.
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
        self.indices = np.asarray(indices, dtype=np.int64)
        self.groups = np.asarray(groups, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_batch = 0

    @property
    def batches_per_epoch(self) -> int:
        """How many batches (of all processes together) show as many images as there are, rounded up."""
        return -(-len(self.indices) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[Sample]]:
        skip = self.start_batch
        waiting = np.zeros((0, 2), dtype=np.int64)
        epoch = 0
        while True:
            batches, waiting = self._into_batches(np.concatenate([waiting, self._share_of(epoch)]))
            for batch in batches[skip:]:
                yield [(int(self.indices[place]), int(position)) for position, place in batch]
            skip = max(skip - len(batches), 0)
            epoch += 1

    def _share_of(self, epoch: int) -> np.ndarray:
        """(S, 2): stream position and place in `indices` of this process's samples of an epoch."""
        count = len(self.indices)
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(count)
        positions = np.arange(epoch * count, (epoch + 1) * count)
        mine = positions % self.world_size == self.rank
        return np.stack([positions[mine], order[mine]], axis=-1)

    def _into_batches(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Full batches (M, batch_size, 2) in the order of their last samples, and the samples left over."""
        groups = self.groups[samples[:, 1]]
        batches, left = [], []
        for group in np.unique(groups):
            members = samples[groups == group]
            full = len(members) // self.batch_size * self.batch_size
            batches.append(members[:full].reshape(-1, self.batch_size, 2))
            left.append(members[full:])
        if not batches:
            return np.zeros((0, self.batch_size, 2), dtype=np.int64), samples
        together, rest = np.concatenate(batches), np.concatenate(left)
        return together[np.argsort(together[:, -1, 0])], rest[np.argsort(rest[:, 0])]


def sequential_batches(num_images: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[Sample]]:
    """Batches of this process's part of 0..num_images-1, in order; together the parts are the whole."""
    start, end = (num_images * part // world_size for part in (rank, rank + 1))
    samples = [(index, index) for index in range(start, end)]
    return [samples[first : first + batch_size] for first in range(0, len(samples), batch_size)]
