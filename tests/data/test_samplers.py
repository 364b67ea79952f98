from itertools import islice

import numpy as np
import pytest

from detrex_lite.data.samplers import TrainBatchSampler, sequential_batches


def sampler(count=20, batch_size=4, groups=None, **more):
    groups = np.zeros(count) if groups is None else groups
    return TrainBatchSampler(indices=np.arange(count), groups=groups, batch_size=batch_size, **more)


def take(batches, count):
    return list(islice(batches, count))


def test_every_epoch_shows_every_image_once_in_another_order():
    first, second = (take(sampler(), 10)[part] for part in (slice(5), slice(5, 10)))
    orders = [[index for batch in part for index, _ in batch] for part in (first, second)]
    assert [sorted(order) for order in orders] == [list(range(20))] * 2
    assert orders[0] != orders[1]
    assert orders[0] != list(range(20))
    positions = [position for batch in first + second for _, position in batch]
    assert positions == list(range(40))


def test_order_depends_on_the_seed_alone():
    assert take(sampler(seed=3), 20) == take(sampler(seed=3), 20)
    assert take(sampler(seed=3), 20) != take(sampler(seed=4), 20)


@pytest.mark.parametrize("start", [1, 4, 5, 17, 100])
@pytest.mark.parametrize("grouped", [False, True])
def test_starting_later_gives_the_same_batches(start, grouped):
    groups = np.arange(23) % 3 == 0 if grouped else None
    whole = take(sampler(23, 4, groups, rank=1, world_size=2), 130)
    later = sampler(23, 4, groups, rank=1, world_size=2)
    later.start_batch = start
    assert take(later, 20) == whole[start : start + 20]
    assert take(later, 20) == whole[start : start + 20]  # and again from a second iterator


@pytest.mark.parametrize(("count", "world_size"), [(20, 2), (21, 4), (3, 5), (1, 3)])
def test_processes_share_the_stream_without_overlap(count, world_size):
    streams = [take(sampler(count, 2, rank=rank, world_size=world_size), count * 2) for rank in range(world_size)]
    positions = [[position for batch in stream for _, position in batch] for stream in streams]
    for rank, mine in enumerate(positions):
        assert [position % world_size for position in mine] == [rank] * len(mine)
    together = sorted(position for mine in positions for position in mine)
    assert together == list(range(len(together)))
    by_position = {position: index for stream in streams for batch in stream for index, position in batch}
    one_epoch = [by_position[position] for position in range(count, 2 * count)]
    assert sorted(one_epoch) == list(range(count))


def test_batches_are_of_one_group_and_no_image_is_lost():
    groups = np.arange(21) % 4 == 0  # 6 of one and 15 of the other
    batches = take(sampler(21, 4, groups), 210)
    assert all(len({bool(groups[index]) for index, _ in batch}) == 1 for batch in batches)
    counts = np.bincount([index for batch in batches for index, _ in batch], minlength=21)
    assert counts.min() >= 38  # 40 epochs, less what still waits for its batch
    assert counts.max() <= 41
    last = [max(position for _, position in batch) for batch in batches]
    assert last == sorted(last)  # a batch comes as soon as it is full


def test_fewer_images_than_a_batch():
    batches = take(sampler(3, 8), 3)
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert np.bincount([index for batch in batches for index, _ in batch]).tolist() == [8, 8, 8]


def test_only_the_given_indices_are_drawn():
    drawn = TrainBatchSampler(indices=np.array([4, 9]), groups=np.zeros(2), batch_size=2)
    assert {index for batch in take(drawn, 5) for index, _ in batch} == {4, 9}


@pytest.mark.parametrize(
    ("count", "batch", "world", "expected"), [(20, 4, 1, 5), (21, 4, 1, 6), (20, 2, 4, 3), (1, 8, 2, 1)]
)
def test_batches_per_epoch_is_rounded_up(count, batch, world, expected):
    assert sampler(count, batch, world_size=world).batches_per_epoch == expected


@pytest.mark.parametrize(("count", "world_size", "batch_size"), [(10, 1, 3), (10, 3, 2), (2, 4, 1), (0, 2, 1)])
def test_sequential_batches_cover_every_image_once_in_order(count, world_size, batch_size):
    parts = [
        sequential_batches(count, batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert [index for part in parts for batch in part for index, _ in batch] == list(range(count))
    assert all(1 <= len(batch) <= batch_size for part in parts for batch in part)
    sizes = [sum(map(len, part)) for part in parts]
    assert max(sizes) - min(sizes) <= 1
