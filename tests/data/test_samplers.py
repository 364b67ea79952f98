from itertools import chain, islice

import numpy as np
import pytest

from detrex_lite.data.samplers import TrainBatchSampler, sequential_batches


def make_sampler(count=20, batch_size=4, groups=None, **options):
    groups = np.zeros(count) if groups is None else groups
    return TrainBatchSampler(indices=np.arange(count), groups=groups, batch_size=batch_size, **options)


def take(batches, count):
    return list(islice(batches, count))


def test_every_epoch_has_every_image_once_in_a_different_order():
    first, second = (take(make_sampler(), 10)[part] for part in (slice(5), slice(5, 10)))
    orders = [[index for batch in part for index, _ in batch] for part in (first, second)]
    assert [sorted(order) for order in orders] == [list(range(20))] * 2
    assert orders[0] != orders[1]
    assert orders[0] != list(range(20))
    positions = [position for batch in first + second for _, position in batch]
    assert positions == list(range(40))


def test_order_depends_only_on_the_seed():
    assert take(make_sampler(seed=3), 20) == take(make_sampler(seed=3), 20)
    assert take(make_sampler(seed=3), 20) != take(make_sampler(seed=4), 20)


@pytest.mark.parametrize("start", [1, 4, 5, 17, 100])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_later_start_gives_the_remaining_batches(start, grouped):
    groups = np.arange(23) % 3 == 0 if grouped else None
    all_batches = take(make_sampler(23, 4, groups, rank=1, world_size=2), 130)
    sampler = make_sampler(23, 4, groups, rank=1, world_size=2)
    sampler.start_batch = start
    assert take(sampler, 20) == all_batches[start : start + 20]
    assert take(sampler, 20) == all_batches[start : start + 20]  # a second iterator starts at the same batch


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_order_does_not_depend_on_the_number_of_processes(world_size, grouped):
    groups = np.arange(23) % 3 == 0 if grouped else None
    expected = take(make_sampler(23, 12, groups), 40)
    parts = [take(make_sampler(23, 12, groups, rank=rank, world_size=world_size), 40) for rank in range(world_size)]
    assert {len(batch) for part in parts for batch in part} == {12 // world_size}
    assert [list(chain(*batches)) for batches in zip(*parts, strict=True)] == expected


def test_number_of_processes_may_change_in_the_middle_of_an_epoch():
    """20 images in batches of 4: two steps of two processes, two of four processes, and six of one process."""
    samples, start = [], 0
    for world_size, steps in ((2, 2), (4, 2), (1, 6)):
        for rank in range(world_size):
            sampler = make_sampler(rank=rank, world_size=world_size)
            sampler.start_batch = start
            samples += chain(*take(sampler, steps))
        start += steps
    assert sorted(position for _, position in samples) == list(range(40))
    for epoch in (range(20), range(20, 40)):
        assert sorted(index for index, position in samples if position in epoch) == list(range(20))


@pytest.mark.parametrize("grouped", [False, True])
def test_batch_size_may_change_without_repeats_or_gaps(grouped):
    groups = np.arange(23) % 3 == 0 if grouped else np.zeros(23)
    batches = take(make_sampler(23, 4, groups), 9)
    second_sampler = make_sampler(23, 3, groups)
    second_sampler.start_batch, second_sampler.first_sizes = 9, [(4, 9)]
    batches += take(second_sampler, 60)
    third_sampler = make_sampler(23, 5, groups)
    third_sampler.start_batch, third_sampler.first_sizes = 69, [(4, 9), (3, 60)]
    batches += take(third_sampler, 60)
    assert [len(batch) for batch in batches] == [4] * 9 + [3] * 60 + [5] * 60
    assert all(len({bool(groups[index]) for index, _ in batch}) == 1 for batch in batches)
    positions = sorted(position for batch in batches for _, position in batch)
    assert len(set(positions)) == len(positions) == 516
    # Missing positions are waiting for a complete batch: fewer than 5 images of each group.
    assert len(set(range(positions[-1])) - set(positions)) < 10
    assert positions[:400] == list(range(400))


def test_first_sizes_equal_to_the_batch_size_do_not_change_the_batches():
    groups = np.arange(23) % 3 == 0
    all_batches = take(make_sampler(23, 4, groups), 60)
    for start in (1, 5, 6, 30):
        sampler = make_sampler(23, 4, groups)
        sampler.start_batch, sampler.first_sizes = start, [(4, start)]
        assert take(sampler, 30) == all_batches[start : start + 30]


def test_a_batch_size_that_cannot_be_divided_evenly_raises_an_error():
    with pytest.raises(ValueError, match="total_batch_size=9 cannot .* 4 .* 8 or 12"):
        make_sampler(batch_size=9, world_size=4)
    with pytest.raises(ValueError, match="total_batch_size=2 cannot .* 4 .* 4$"):
        make_sampler(batch_size=2, world_size=4)
    with pytest.raises(ValueError, match="total_batch_size=0 cannot .* 1 process.* 1$"):
        make_sampler(batch_size=0)


def test_each_batch_has_one_group_and_no_image_is_lost():
    groups = np.arange(21) % 4 == 0  # groups of 6 and 15 images
    batches = take(make_sampler(21, 4, groups), 210)
    assert all(len({bool(groups[index]) for index, _ in batch}) == 1 for batch in batches)
    counts = np.bincount([index for batch in batches for index, _ in batch], minlength=21)
    assert counts.min() >= 38  # 40 epochs, minus images that are waiting for a complete batch
    assert counts.max() <= 41
    last = [max(position for _, position in batch) for batch in batches]
    assert last == sorted(last)  # a batch is returned as soon as it is complete


def test_images_are_repeated_when_there_are_fewer_than_a_batch():
    batches = take(make_sampler(3, 8), 3)
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert np.bincount([index for batch in batches for index, _ in batch]).tolist() == [8, 8, 8]


def test_only_the_given_indices_are_drawn():
    sampler = TrainBatchSampler(indices=np.array([4, 9]), groups=np.zeros(2), batch_size=2)
    assert {index for batch in take(sampler, 5) for index, _ in batch} == {4, 9}


@pytest.mark.parametrize(
    ("count", "batch", "world", "expected"), [(20, 4, 1, 5), (21, 4, 1, 6), (20, 8, 4, 3), (1, 16, 2, 1)]
)
def test_batches_per_epoch_is_rounded_up(count, batch, world, expected):
    assert make_sampler(count, batch, world_size=world).batches_per_epoch == expected


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
def test_batches_have_the_same_number_and_epoch_after_a_later_start(grouped):
    groups = np.arange(23) % 3 == 0 if grouped else None
    all_batches = take(make_sampler(23, 4, groups), 40)
    assert [batch.number for batch in all_batches] == list(range(40))
    assert [batch.epoch for batch in all_batches] == [number // 6 for number in range(40)]
    sampler = make_sampler(23, 4, groups, rank=1, world_size=2)
    sampler.start_batch, sampler.first_sizes = 17, [(4, 17)]
    numbers_and_epochs = [(batch.number, batch.epoch) for batch in take(sampler, 10)]
    assert numbers_and_epochs == [(batch.number, batch.epoch) for batch in all_batches[17:27]]


def test_epochs_are_counted_in_steps_when_the_batch_size_changes():
    """An epoch has six steps with batch size 4, and twelve with batch size 2, which is used from step 12."""
    sampler = make_sampler(23, 2)
    sampler.start_batch, sampler.first_sizes = 12, [(4, 12)]
    assert [batch.epoch for batch in take(sampler, 14)] == [1] * 12 + [2] * 2


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_previous_sample_is_taken_from_the_global_batch(world_size):
    global_batches = take(make_sampler(20, 4), 8)
    for rank in range(world_size):
        for global_batch, local_batch in zip(
            global_batches, take(make_sampler(20, 4, rank=rank, world_size=world_size), 8), strict=True
        ):
            assert local_batch.before == global_batch[global_batch.index(local_batch[0]) - 1]
