from itertools import chain, islice

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


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_order_does_not_depend_on_the_number_of_processes(world_size, grouped):
    groups = np.arange(23) % 3 == 0 if grouped else None
    alone = take(sampler(23, 12, groups), 40)
    parts = [take(sampler(23, 12, groups, rank=rank, world_size=world_size), 40) for rank in range(world_size)]
    assert {len(batch) for part in parts for batch in part} == {12 // world_size}
    assert [list(chain(*batches)) for batches in zip(*parts, strict=True)] == alone


def test_another_number_of_processes_goes_on_in_the_middle_of_an_epoch():
    """20 images, batches of 4: two steps by two processes, then by four, then by one."""
    seen, start = [], 0
    for world_size, steps in ((2, 2), (4, 2), (1, 6)):
        for rank in range(world_size):
            part = sampler(rank=rank, world_size=world_size)
            part.start_batch = start
            seen += chain(*take(part, steps))
        start += steps
    assert sorted(position for _, position in seen) == list(range(40))
    for epoch in (range(20), range(20, 40)):
        assert sorted(index for index, position in seen if position in epoch) == list(range(20))


@pytest.mark.parametrize("grouped", [False, True])
def test_another_batch_size_goes_on_without_repeats_or_gaps(grouped):
    groups = np.arange(23) % 3 == 0 if grouped else np.zeros(23)
    seen = take(sampler(23, 4, groups), 9)
    later = sampler(23, 3, groups)
    later.start_batch, later.first_sizes = 9, [(4, 9)]
    seen += take(later, 60)
    latest = sampler(23, 5, groups)
    latest.start_batch, latest.first_sizes = 69, [(4, 9), (3, 60)]
    seen += take(latest, 60)
    assert [len(batch) for batch in seen] == [4] * 9 + [3] * 60 + [5] * 60
    assert all(len({bool(groups[index]) for index, _ in batch}) == 1 for batch in seen)
    positions = sorted(position for batch in seen for _, position in batch)
    assert len(set(positions)) == len(positions) == 516
    # What is missing waits for the rest of its batch: fewer than 5 images of each group.
    assert len(set(range(positions[-1])) - set(positions)) < 10
    assert positions[:400] == list(range(400))


def test_first_batches_of_the_same_size_change_nothing():
    groups = np.arange(23) % 3 == 0
    whole = take(sampler(23, 4, groups), 60)
    for start in (1, 5, 6, 30):
        later = sampler(23, 4, groups)
        later.start_batch, later.first_sizes = start, [(4, start)]
        assert take(later, 30) == whole[start : start + 30]


def test_a_batch_is_shared_evenly():
    with pytest.raises(ValueError, match="total_batch_size=9 cannot be shared evenly by 4 .* can: 8 or 12"):
        sampler(batch_size=9, world_size=4)
    with pytest.raises(ValueError, match="total_batch_size=2 cannot be shared evenly by 4 .* can: 4$"):
        sampler(batch_size=2, world_size=4)
    with pytest.raises(ValueError, match="total_batch_size=0 cannot be shared evenly by 1 process; .* can: 1$"):
        sampler(batch_size=0)


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
    ("count", "batch", "world", "expected"), [(20, 4, 1, 5), (21, 4, 1, 6), (20, 8, 4, 3), (1, 16, 2, 1)]
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


@pytest.mark.parametrize("grouped", [False, True])
def test_batches_know_their_number_and_epoch_wherever_the_run_goes_on(grouped):
    groups = np.arange(23) % 3 == 0 if grouped else None
    whole = take(sampler(23, 4, groups), 40)
    assert [batch.number for batch in whole] == list(range(40))
    assert [batch.epoch for batch in whole] == [number // 6 for number in range(40)]
    later = sampler(23, 4, groups, rank=1, world_size=2)
    later.start_batch, later.first_sizes = 17, [(4, 17)]
    places = [(batch.number, batch.epoch) for batch in take(later, 10)]
    assert places == [(batch.number, batch.epoch) for batch in whole[17:27]]


def test_epochs_are_counted_as_the_engine_counts_steps_when_the_batch_size_changes():
    """Six steps an epoch at a batch size of 4; from the twelfth on twelve, at one of 2."""
    later = sampler(23, 2)
    later.start_batch, later.first_sizes = 12, [(4, 12)]
    assert [batch.epoch for batch in take(later, 14)] == [1] * 12 + [2] * 2


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_sample_before_is_that_of_the_batch_of_all_processes(world_size):
    alone = take(sampler(20, 4), 8)
    for rank in range(world_size):
        for whole, part in zip(alone, take(sampler(20, 4, rank=rank, world_size=world_size), 8), strict=True):
            assert part.before == whole[whole.index(part[0]) - 1]
