import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from detrex_lite.data import (
    DatasetError,
    DetrDatasetMapper,
    InEpochs,
    Mixup,
    Mosaic,
    MultiScale,
    RandomIoUCrop,
    RandomPhotometricDistort,
    RealtimeAugmentation,
    build_test_loader,
    build_train_loader,
    dataset_of,
    detr_train_augmentation,
    epoch_length,
    from_records,
)

from .samples import write_image


class RandomMapper:
    """Returns the image id and a random number of every generator."""

    def __call__(self, record):
        return {
            "image_id": record["image_id"],
            "torch": torch.rand(()).item(),
            "numpy": float(np.random.rand()),
            "python": random.random(),
        }


def make_dataset(count=10, empty=(), sizes=None):
    records = []
    for i in range(count):
        height, width = (sizes or [(40, 60)])[i % len(sizes or [0])]
        boxes = [] if i in empty else [[0, 0, 5, 5]]
        records.append(
            {
                "file_name": f"{i}.png",
                "height": height,
                "width": width,
                "boxes": boxes,
                "classes": [0] * len(boxes),
            }
        )
    return from_records(records, name="mine", class_names=["x"])


def train_loader(dataset=None, mapper=None, **replacements):
    options = {"total_batch_size": 2, "num_workers": 0, **replacements}
    return build_train_loader(dataset=dataset or make_dataset(), mapper=mapper or RandomMapper(), **options)


def take(loader, count):
    return list(islice(loader, count))


def test_batches_are_the_same_for_any_number_of_workers():
    expected = take(train_loader(), 7)
    assert len({sample["torch"] for batch in expected for sample in batch}) == 14
    assert take(train_loader(num_workers=1), 7) == expected
    assert take(train_loader(num_workers=2), 7) == expected
    assert take(train_loader(seed=1), 7) != expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_later_start_gives_the_batches_of_the_uninterrupted_run(num_workers):
    expected = take(train_loader(), 9)
    loader = train_loader(num_workers=num_workers)
    loader.batch_sampler.start_batch = 6
    assert take(loader, 3) == expected[6:]


def test_an_image_is_augmented_differently_each_time():
    loader = train_loader(make_dataset(1), total_batch_size=1)
    assert len({batch[0]["torch"] for batch in take(loader, 5)}) == 5


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_does_not_change_the_random_state_of_the_process(num_workers):
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = draw()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    take(train_loader(num_workers=num_workers), 3)
    assert draw() == expected


def test_a_negative_seed_gives_different_batches_each_time():
    assert take(train_loader(seed=-1), 5) != take(train_loader(seed=-1), 5)


def test_aspect_ratio_grouping_separates_portrait_and_landscape_images():
    dataset = make_dataset(20, sizes=[(40, 60), (60, 40), (40, 60)])
    sizes = {int(i): (h, w) for i, h, w in zip(dataset.image_ids, dataset.heights, dataset.widths, strict=True)}

    def count_mixed_batches(loader):
        return sum(len({sizes[sample["image_id"]] for sample in batch}) > 1 for batch in take(loader, 30))

    assert count_mixed_batches(train_loader(dataset)) == 0
    assert count_mixed_batches(train_loader(dataset, aspect_ratio_grouping=False)) > 0


def test_images_without_objects_are_kept_unless_filtered():
    dataset = make_dataset(4, empty=(1, 2))

    def image_ids(**options):
        return {sample["image_id"] for batch in take(train_loader(dataset, **options), 8) for sample in batch}

    assert image_ids() == {1, 2, 3, 4}
    assert image_ids(filter_empty=True) == {1, 4}


def test_limit_uses_the_first_images():
    loader = train_loader(limit=3)
    assert {sample["image_id"] for batch in take(loader, 9) for sample in batch} == {1, 2, 3}
    assert len(dataset_of(loader)) == 3
    assert epoch_length(loader) == 2


def test_invalid_arguments_raise_an_error():
    with pytest.raises(DatasetError, match="no image has a box: .*'mine' .* no annotations"):
        train_loader(from_records([{"file_name": "a", "height": 9, "width": 9}] * 4, name="mine", class_names=["x"]))
    with pytest.raises(DatasetError, match=r"no image has a box: .*no box that training can use"):
        train_loader(make_dataset(4, empty=range(4)))
    crowds = {
        "file_name": "a",
        "height": 9,
        "width": 9,
        "boxes": [[0, 0, 5, 5]],
        "classes": [0],
        "iscrowd": [1],
    }
    with pytest.raises(DatasetError, match=r"no image has a box: .*no box that training can use"):
        train_loader(from_records([crowds], name="mine", class_names=["x"]))
    with pytest.raises(ValueError, match="total_batch_size=0 cannot"):
        train_loader(total_batch_size=0)
    with pytest.raises(ValueError, match="num_workers .*negative, got -1"):
        train_loader(num_workers=-1)
    with pytest.raises(ValueError, match="max_unreadable must not be negative, got -1"):
        train_loader(max_unreadable=-1)
    with pytest.raises(ValueError, match="batch_size .* got 0"):
        build_test_loader(dataset=make_dataset(), mapper=RandomMapper(), batch_size=0)
    with pytest.raises(ValueError, match="build_train_loader .* epoch length"):
        epoch_length(DataLoader([1, 2]))


def test_batches_are_divided_among_processes(monkeypatch):
    monkeypatch.setattr("detrex_lite.data.loaders.world_size", lambda: 2)
    monkeypatch.setattr("detrex_lite.data.loaders.rank", lambda: 1)
    loader = train_loader(total_batch_size=4)
    assert [len(batch) for batch in take(loader, 3)] == [2, 2, 2]
    assert epoch_length(loader) == 3
    test_loader = build_test_loader(dataset=make_dataset(9), mapper=RandomMapper(), num_workers=0)
    assert [batch[0]["image_id"] for batch in test_loader] == [5, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="total_batch_size=3 cannot .* 2 processes"):
        train_loader(total_batch_size=3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_test_loader_gives_every_image_once_in_order(num_workers):
    dataset = make_dataset(7)
    loader = build_test_loader(dataset=dataset, mapper=RandomMapper(), batch_size=3, num_workers=num_workers)
    for _ in range(2):
        batches = list(loader)
        assert [[sample["image_id"] for sample in batch] for batch in batches] == [[1, 2, 3], [4, 5, 6], [7]]
    assert len(loader) == 3
    assert dataset_of(loader) is dataset


def test_dataset_of_other_loaders_is_none():
    assert dataset_of(DataLoader([1, 2])) is None
    assert dataset_of([1, 2]) is None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_and_instances_are_the_same_from_workers(tmp_path, num_workers):
    records = [
        {
            "file_name": str(write_image(tmp_path / f"{i}.png", 40, 60)),
            "height": 40,
            "width": 60,
            "boxes": [[0, 0, 20, 20], [30, 10, 60, 40]],
            "classes": [0, 0],
        }
        for i in range(3)
    ]
    dataset = from_records(records, name="mine", class_names=["x"])
    augmentation = v2.Compose(
        [
            v2.ColorJitter(0.5, 0.5, 0.5),
            detr_train_augmentation(short_edge_lengths=[32, 48], short_edges_before_crop=[40], crop_range=(20, 30)),
        ]
    )
    mapper = DetrDatasetMapper(augmentation=augmentation, is_train=True)
    expected = take(train_loader(dataset, mapper), 4)
    actual = take(train_loader(dataset, mapper, num_workers=num_workers), 4)
    for expected_batch, actual_batch in zip(expected, actual, strict=True):
        for expected_sample, actual_sample in zip(expected_batch, actual_batch, strict=True):
            torch.testing.assert_close(expected_sample["image"], actual_sample["image"], rtol=0, atol=0)
            boxes = [sample["instances"].gt_boxes.tensor for sample in (expected_sample, actual_sample)]
            torch.testing.assert_close(*boxes, rtol=0, atol=0)
            assert (
                expected_sample["instances"].image_size
                == actual_sample["instances"].image_size
                == expected_sample["image"].shape[-2:]
            )


def write_images(folder, count):
    """A data set of images on disk with one box each, and a mapper for training."""
    records = []
    for i in range(count):
        path = write_image(folder / f"{i}.png", 40, 60)
        records.append({"file_name": str(path), "height": 40, "width": 60, "boxes": [[0, 0, 5, 5]], "classes": [0]})
    return from_records(records, name="mine", class_names=["x"]), DetrDatasetMapper(is_train=True)


def evaluation_loader(dataset, **options):
    return build_test_loader(dataset=dataset, mapper=DetrDatasetMapper(is_train=False), **{"num_workers": 0, **options})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_that_become_unreadable_during_training_are_skipped_and_counted_once(tmp_path, caplog, num_workers):
    dataset, mapper = write_images(tmp_path, 12)
    batches = iter(train_loader(dataset, mapper, num_workers=num_workers, max_unreadable=2))
    before = [next(batches) for _ in range(2)]
    (tmp_path / "3.png").unlink()
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:60])
    after = [next(batches) for _ in range(24)]  # 24 batches are four epochs
    assert {len(batch) for batch in before + after} == {2}
    late_file_names = [sample["file_name"] for batch in after[-12:] for sample in batch]
    assert {Path(name).name for name in late_file_names} == {f"{i}.png" for i in range(12) if i not in (3, 7)}
    # In each of the last two epochs, image 4 is used for itself and in place of image 3.
    assert late_file_names.count(str(tmp_path / "4.png")) == 2 * 2
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert any(re.search(r"Left out image . of at most 2, .*3\.png does not exist", message) for message in messages)
    assert any(re.search(r"Left out image . of at most 2, .*7\.png cannot be read", message) for message in messages)


class OutOfMemoryAugmentation:
    """An augmentation that raises an out-of-memory error for large images."""

    def __init__(self, error):
        self.error = error

    def __call__(self, image, target):
        if image.shape[-1] > 60:
            raise self.error
        return image, target


OUT_OF_MEMORY_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(OUT_OF_MEMORY_MESSAGE)], ids=["Python", "torch"])
def test_an_image_too_large_for_memory_is_skipped(tmp_path, caplog, num_workers, error):
    path = str(write_image(tmp_path / "large.png", 40, 70))
    records = [{"file_name": path, "height": 40, "width": 70, "boxes": [[0, 0, 5, 5]], "classes": [0]}]
    small = write_images(tmp_path, 3)[0]
    records += [
        {"file_name": small.file_name(i), "height": 40, "width": 60, "boxes": [[0, 0, 5, 5]], "classes": [0]}
        for i in range(3)
    ]
    dataset = from_records(records, name="mine", class_names=["x"])
    for is_train, build in ((True, train_loader), (False, build_test_loader)):
        mapper = DetrDatasetMapper(augmentation=OutOfMemoryAugmentation(error), is_train=is_train)
        caplog.clear()
        batches = take(build(dataset=dataset, mapper=mapper, num_workers=num_workers), 4)
        assert path not in {sample["file_name"] for batch in batches for sample in batch}
        [message] = caplog.messages
        assert "Left out image 1 of at most 10" in message
        assert f"{path} of 40x70" in message
        assert "memory" in message
    strict = build_test_loader(dataset=dataset, mapper=mapper, num_workers=num_workers, max_unreadable=0)
    with pytest.raises(DatasetError, match=r"large\.png of 40x70"):
        list(strict)


def test_other_errors_of_an_augmentation_stop_training(tmp_path):
    dataset, _ = write_images(tmp_path, 4)

    def fail(image, target):
        raise RuntimeError("a mistake in the augmentation")

    with pytest.raises(RuntimeError, match="a mistake"):
        take(train_loader(dataset, DetrDatasetMapper(augmentation=fail, is_train=True)), 1)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory limit of a process works only on Linux")
def test_an_image_is_skipped_when_resizing_exceeds_the_memory_limit(tmp_path):
    """The subprocess limits its memory, so that torch and Pillow raise real errors."""
    completed = subprocess.run(
        [sys.executable, "-c", LIMITED_MEMORY_SCRIPT, str(tmp_path)], capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    assert "Left out image 1 of at most 10" in completed.stderr
    assert "large.png of 4000x4000 (height x width) pixels needs more memory" in completed.stderr
    assert "[2]" in completed.stdout


LIMITED_MEMORY_SCRIPT = """
import logging, resource, sys
import torch
from PIL import Image
from torchvision.transforms import v2
from detrex_lite.data import DetrDatasetMapper, build_test_loader, from_records

torch.set_num_threads(1)
logging.basicConfig()
records = []
for name, side in (("large", 4000), ("small", 64)):
    path = f"{sys.argv[1]}/{name}.png"
    Image.new("RGB", (side, side)).save(path)
    records.append({"file_name": path, "height": side, "width": side, "boxes": [], "classes": []})
dataset = from_records(records, name="mine", class_names=["x"])


def doubled(image, target):
    return v2.functional.resize(image, [2 * image.shape[-2], 2 * image.shape[-1]]), target


mapper = DetrDatasetMapper(augmentation=doubled, is_train=False)
doubled(torch.zeros(3, 16, 16, dtype=torch.uint8), {})
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 250 * 2**20,) * 2)  # the doubled image has 183 MiB, one side 92 MiB
loader = build_test_loader(dataset=dataset, mapper=mapper, num_workers=0)
print([sample["image_id"] for batch in loader for sample in batch])
"""


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_unreadable_images_stop_training(tmp_path, num_workers):
    dataset, mapper = write_images(tmp_path, 8)
    for i in (0, 2, 4, 6):
        (tmp_path / f"{i}.png").unlink()
    with pytest.raises(DatasetError, match=r"(?s)4 images cannot be read .max_unreadable=3 .*\.png does not exist"):
        take(train_loader(dataset, mapper, num_workers=num_workers, max_unreadable=3), 20)


def test_replacement_of_an_unreadable_image_does_not_depend_on_workers(tmp_path):
    dataset, mapper = write_images(tmp_path, 6)
    (tmp_path / "2.png").unlink()
    names = [
        [[sample["file_name"] for sample in batch] for batch in take(train_loader(dataset, mapper, num_workers=n), 9)]
        for n in (0, 2)
    ]
    assert names[0] == names[1]


def test_a_wrong_folder_stops_training_at_the_first_batch():
    loader = train_loader(make_dataset(30), DetrDatasetMapper(is_train=True))
    with pytest.raises(DatasetError, match=r"(?s)11 images cannot be read .*\d.png does not exist.*Is the folder"):
        next(iter(loader))
    small_loader = train_loader(make_dataset(3), DetrDatasetMapper(is_train=True))
    with pytest.raises(DatasetError, match="3 images cannot be read"):
        next(iter(small_loader))


def test_no_image_is_skipped_when_max_unreadable_is_0():
    loader = train_loader(make_dataset(), DetrDatasetMapper(is_train=True), max_unreadable=0)
    with pytest.raises(DatasetError, match=r"\d.png does not exist"):
        next(iter(loader))
    evaluation = evaluation_loader(make_dataset(), max_unreadable=0)
    with pytest.raises(DatasetError, match=r"^image 0.png does not exist"):
        next(iter(evaluation))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_unreadable_images_are_skipped_in_evaluation_and_counted_once(tmp_path, caplog, num_workers, batch_size):
    dataset, _ = write_images(tmp_path, 6)
    (tmp_path / "0.png").unlink()
    (tmp_path / "4.png").write_text("broken")
    write_image(tmp_path / "5.png", 60, 40)
    loader = evaluation_loader(dataset, num_workers=num_workers, batch_size=batch_size, max_unreadable=3)
    for _ in range(2):
        batches = list(loader)
        assert [sample["image_id"] for batch in batches for sample in batch] == [2, 3, 4]
        assert all(batches)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    for number, (message, name) in enumerate(zip(messages, ("0.png", "4.png", "5.png"), strict=True), 1):
        assert message.startswith(f"Left out image {number} of at most 3, objects in it count as missed: ")
        assert name in message


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_unreadable_images_stop_an_evaluation(tmp_path, num_workers):
    dataset, _ = write_images(tmp_path, 8)
    for i in (1, 3, 5):
        (tmp_path / f"{i}.png").unlink()
    with pytest.raises(DatasetError, match=r"(?s)3 images cannot be read .max_unreadable=2 .*1\.png does not exist"):
        list(evaluation_loader(dataset, num_workers=num_workers, max_unreadable=2))
    with pytest.raises(DatasetError, match="3 images cannot be read .max_unreadable=10 "):
        list(evaluation_loader(make_dataset(3)))
    with pytest.raises(ValueError, match="max_unreadable must not be negative, got -1"):
        evaluation_loader(dataset, max_unreadable=-1)


def realtime_loader(dataset, **replacements):
    """A loader with all augmentations of real-time detectors; 10 images in batches of 4 are 3 steps per epoch."""
    augmentation = RealtimeAugmentation(
        size=64,
        mosaic=InEpochs(Mosaic(size=48), probability=0.5, epochs=[1, 3]),
        photometric_distort=InEpochs(RandomPhotometricDistort(), epochs=[1, 4]),
        zoom_out=InEpochs(v2.RandomZoomOut(fill=0), epochs=[1, 4]),
        iou_crop=InEpochs(RandomIoUCrop(), probability=0.8, epochs=[1, 4]),
    )
    options = {
        "mixup": Mixup(probability=0.5, epochs=[1, 3]),
        "multi_scale": MultiScale([32, 64, 96], epochs=[0, 4]),
        "aspect_ratio_grouping": False,
        "total_batch_size": 4,
        **replacements,
    }
    return train_loader(dataset, DetrDatasetMapper(augmentation=augmentation, is_train=True), **options)


def assert_same_samples(left, right):
    assert [left_sample["file_name"] for left_sample in left] == [left_sample["file_name"] for left_sample in right]
    for left_sample, right_sample in zip(left, right, strict=True):
        torch.testing.assert_close(left_sample["image"], right_sample["image"], rtol=0, atol=0)
        for name in ("gt_classes", "gt_boxes"):
            values = [sample["instances"].get(name) for sample in (left_sample, right_sample)]
            tensors = [getattr(value, "tensor", value) for value in values]
            torch.testing.assert_close(*tensors, rtol=0, atol=0)


def assert_same_batches(left, right):
    for left_batch, right_batch in zip(left, right, strict=True):
        assert_same_samples(left_batch, right_batch)


def simulate_process(monkeypatch, rank, world_size):
    monkeypatch.setattr("detrex_lite.data.loaders.world_size", lambda: world_size)
    monkeypatch.setattr("detrex_lite.data.loaders.rank", lambda: rank)


def test_realtime_batches_do_not_depend_on_workers_or_the_start_batch(tmp_path):
    dataset, _ = write_images(tmp_path, 10)
    expected = take(realtime_loader(dataset), 15)
    assert {sample["image"].shape[-1] for batch in expected[:12] for sample in batch} == {32, 64, 96}
    assert {sample["image"].shape[-1] for batch in expected[12:] for sample in batch} == {64}
    counts = [max(len(sample["instances"]) for sample in batch) for batch in expected]
    assert max(counts[:3]) == 1
    assert max(counts[3:9]) > 1  # mosaic and mixup are used in epochs 1 and 2
    assert max(counts[9:]) == 1
    for num_workers in (1, 2):
        assert_same_batches(take(realtime_loader(dataset, num_workers=num_workers), 15), expected)
    for start in (1, 3, 5, 9, 13):
        loader = realtime_loader(dataset, num_workers=start % 3)
        loader.batch_sampler.start_batch = start
        assert_same_batches(take(loader, 15 - start), expected[start:])
        # A second iteration uses the same worker processes.
        assert_same_batches(take(loader, 15 - start), expected[start:])


def test_realtime_batches_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    dataset, _ = write_images(tmp_path, 10)
    expected = take(realtime_loader(dataset), 13)
    for world_size in (2, 4):
        parts = []
        for rank in range(world_size):
            simulate_process(monkeypatch, rank, world_size)
            parts.append(take(realtime_loader(dataset), 13))
        actual = [[sample for part in batch for sample in part] for batch in zip(*parts, strict=True)]
        assert_same_batches(actual, expected)


@pytest.mark.parametrize("count", [1, 3])
def test_mosaics_of_fewer_than_four_images_repeat_images(tmp_path, count):
    dataset, _ = write_images(tmp_path, count)
    mapper = DetrDatasetMapper(
        augmentation=RealtimeAugmentation(size=96, mosaic=InEpochs(Mosaic(size=40, degrees=0, scale=(0.5, 0.5)))),
        is_train=True,
    )
    (batch,) = take(train_loader(dataset, mapper, total_batch_size=4), 1)
    assert [len(sample["instances"]) for sample in batch] == [4] * 4


def test_unreadable_images_of_a_mosaic_are_counted_once(tmp_path, caplog):
    dataset, _ = write_images(tmp_path, 8)
    (tmp_path / "5.png").unlink()
    mapper = DetrDatasetMapper(
        augmentation=RealtimeAugmentation(size=96, mosaic=InEpochs(Mosaic(size=40))), is_train=True
    )
    batches = take(train_loader(dataset, mapper, max_unreadable=1), 12)
    assert {len(batch) for batch in batches} == {2}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "5.png does not exist" in messages[0]
    assert_same_batches(take(train_loader(dataset, mapper, max_unreadable=1, num_workers=2), 12), batches)
    with pytest.raises(DatasetError, match=r"5.png does not exist"):
        take(train_loader(dataset, mapper, max_unreadable=0), 12)


def test_mosaics_draw_only_from_training_images(tmp_path):
    dataset, _ = write_images(tmp_path, 6)
    drawn = set()

    class DrawingMapper:
        def __call__(self, record):
            drawn.add(record["draw"](lambda record_of_mosaic: record_of_mosaic["image_id"]))
            return {"image_id": record["image_id"]}

    take(train_loader(dataset, DrawingMapper(), limit=2), 20)
    assert drawn == {1, 2}
    drawn.clear()
    dataset_with_empty_images = make_dataset(6, empty=(0, 3))
    take(train_loader(dataset_with_empty_images, DrawingMapper(), filter_empty=True), 40)
    assert drawn == {2, 3, 5, 6}


def test_mixup_needs_another_image():
    with pytest.raises(ValueError, match="mixup .* total_batch_size=1"):
        train_loader(total_batch_size=1, mixup=Mixup())
