import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detrex_lite.data import DatasetError, load_coco

from .samples import CATEGORIES, box_entry, image_entry, write_coco


def test_category_ids_with_gaps_become_classes_from_zero_by_id(tmp_path):
    annotations = [box_entry(5, 1, [0, 0, 10, 10], 7), box_entry(9, 1, [1, 2, 3, 4], 2)]
    dataset = load_coco(*write_coco(tmp_path, annotations=annotations))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (2, 7)
    record = dataset[0]
    assert record["classes"].tolist() == [1, 0]
    assert record["annotation_ids"].tolist() == [5, 9]
    torch.testing.assert_close(record["boxes"], torch.tensor([[0.0, 0, 10, 10], [1, 2, 4, 6]]))


def test_record_holds_everything_of_an_image(tmp_path):
    images = [image_entry(30, "x.jpg", 50, 70), image_entry(4, "sub/ü.jpg", 10, 20)]
    annotations = [box_entry(1, 4, [0, 0, 5, 5]), box_entry(2, 30, [2.5, 3, 4, 8], iscrowd=1, area=12.5)]
    path, root = write_coco(tmp_path, images, annotations)
    dataset = load_coco(path, root, name="mine")
    first, second = dataset
    assert (first["image_id"], first["height"], first["width"]) == (30, 50, 70)
    assert first["file_name"] == str(root / "x.jpg")
    assert second["file_name"] == str(root / "sub/ü.jpg")
    torch.testing.assert_close(first["boxes"], torch.tensor([[2.5, 3, 6.5, 11]]))
    assert first["iscrowd"].tolist() == [True]
    assert first["area"].tolist() == [12.5]
    assert (second["iscrowd"].tolist(), second["area"].tolist()) == ([False], [25.0])  # the defaults
    assert (dataset.name, len(dataset), dataset.num_boxes, dataset.num_classes) == ("mine", 2, 2, 2)
    assert dataset.has_annotations
    assert dataset.objects_per_image().tolist() == [0, 1]


def test_ids_may_be_whole_floats(tmp_path):
    annotations = [box_entry(1.0, 1.0, [0, 0, 5, 5], 7.0)]
    dataset = load_coco(*write_coco(tmp_path, [image_entry(1.0)], annotations, [{"id": 7.0, "name": "dog"}]))
    assert dataset.category_ids == (7,)
    assert dataset.image_ids.tolist() == [1]


def test_images_without_boxes_have_empty_tensors(tmp_path):
    dataset = load_coco(*write_coco(tmp_path, [image_entry(1), image_entry(2)], [box_entry(1, 2, [0, 0, 5, 5])]))
    record = dataset[0]
    assert record["boxes"].shape == (0, 4)
    assert record["classes"].shape == record["iscrowd"].shape == record["area"].shape == (0,)


@pytest.mark.parametrize("annotations", [None, []])
def test_file_without_annotations_is_for_prediction(tmp_path, annotations):
    dataset = load_coco(*write_coco(tmp_path, annotations=annotations))
    assert not dataset.has_annotations
    assert dataset[0]["boxes"].shape == (0, 4)


def test_bad_boxes_are_dropped_and_counted(tmp_path):
    boxes = [
        [5, 5, 0, 10],  # no width
        [5, 5, 10, -1],  # negative height
        [float("nan"), 5, 10, 10],
        [60, 5, 10, 10],  # begins where the image ends
        [-20, 5, 10, 10],
        [50, 30, 30, 30],  # partly outside
        [0, 0, 60.04, 40],  # rounding
        [1, 1, 5, 5],
    ]
    annotations = [box_entry(i, 1, box) for i, box in enumerate(boxes)]
    dataset = load_coco(*write_coco(tmp_path, annotations=annotations))
    assert dataset.dropped == {"not finite": 1, "without area": 2, "outside the image": 2}
    assert dataset.clipped == 1
    assert dataset[0]["annotation_ids"].tolist() == [5, 6, 7]
    expected = torch.tensor([[50.0, 30, 60, 40], [0, 0, 60, 40], [1, 1, 6, 6]])
    torch.testing.assert_close(dataset[0]["boxes"], expected, rtol=0, atol=0)
    assert dataset[0]["area"].tolist() == [100, 2400, 25]


def test_loading_twice_gives_the_same_object_until_the_file_changes(tmp_path):
    path, root = write_coco(tmp_path, annotations=[box_entry(1, 1, [0, 0, 5, 5])])
    first = load_coco(path, root)
    assert load_coco(str(path), str(root), class_names=None) is first
    write_coco(tmp_path, annotations=[box_entry(1, 1, [0, 0, 5, 5]), box_entry(2, 1, [0, 0, 6, 6])])
    assert load_coco(path, root).num_boxes == 2


def test_class_names_must_be_the_files(tmp_path):
    path, root = write_coco(tmp_path, annotations=[box_entry(1, 1, [0, 0, 5, 5])])
    assert load_coco(path, root, class_names=["cat", "dog"]).class_names == ("cat", "dog")
    with pytest.raises(DatasetError, match=r"\['cat', 'dog'\], but class_names says \['dog', 'cat'\]"):
        load_coco(path, root, class_names=["dog", "cat"])
    with pytest.raises(DatasetError, match="class_names is empty"):
        load_coco(path, root, class_names=[])
    with pytest.raises(DatasetError, match="'cat' more than once"):
        load_coco(path, root, class_names=["cat", "cat"])
    with pytest.raises(DatasetError, match="got the string 'cat'"):
        load_coco(path, root, class_names="cat")


GOOD = box_entry(3, 1, [0, 0, 5, 5])


def _without(entry: dict, key: str) -> dict:
    return {k: v for k, v in entry.items() if k != key}


@pytest.mark.parametrize(
    ("images", "annotations", "categories", "message"),
    [
        ([], [], CATEGORIES, "not one image"),
        ([image_entry(1)], [], [], "not one category"),
        (
            [image_entry(1), image_entry(1, "b.png")],
            [],
            CATEGORIES,
            r"image 1: the images 1.png and b.png share",
        ),
        (
            [_without(image_entry(5), "width")],
            [],
            CATEGORIES,
            r"image 5: it has no 'width'; its keys are id, file",
        ),
        ([image_entry(5, height=0)], [], CATEGORIES, r"image 5: its height and width are 0 and 60"),
        ([{**image_entry(5), "file_name": 3}], [], CATEGORIES, r"image 5: 'file_name' must be a path, got 3"),
        ([image_entry("x1")], [], CATEGORIES, r"image 'x1': 'id' must be an integer, got 'x1'"),
        (["x"], [], CATEGORIES, r"image at position 0: it is not an object but 'x'"),
        (
            [image_entry(1)],
            [GOOD, box_entry(4, 8, [0, 0, 5, 5])],
            CATEGORIES,
            r"annotation 4: its image_id 8 is not",
        ),
        (
            [image_entry(1)],
            [box_entry(4, 1, [0, 0, 5, 5], 3)],
            CATEGORIES,
            r"annotation 4: its category_id 3 .*2, 7",
        ),
        ([image_entry(1)], [GOOD, GOOD], CATEGORIES, "annotation 3: another annotation has the same id"),
        ([image_entry(1)], [_without(GOOD, "bbox")], CATEGORIES, "annotation 3: it has no 'bbox'"),
        ([image_entry(1)], [_without(GOOD, "id")], CATEGORIES, "annotation at position 0: it has no 'id'"),
        (
            [image_entry(1)],
            [box_entry(3, 1, [0, 0, 5])],
            CATEGORIES,
            r"annotation 3: 'bbox' must be four numbers",
        ),
        (
            [image_entry(1)],
            [box_entry(3, 1, ["0", 0, 5, 5])],
            CATEGORIES,
            r"four numbers .*got \['0', 0, 5, 5\]",
        ),
        (
            [image_entry(1)],
            [box_entry(3, 1.5, [0, 0, 5, 5])],
            CATEGORIES,
            r"'image_id' must be an integer, got 1.5",
        ),
        (
            [image_entry(1)],
            [],
            [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}],
            "category 1: .*that of category 'a'",
        ),
        (
            [image_entry(1)],
            [],
            [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}],
            "category 2: .*also called 'a'",
        ),
        ([image_entry(1)], [], [{"id": 1}], "category 1: it has no 'name'"),
    ],
)
def test_faulty_entries_are_named_with_file_and_id(tmp_path, images, annotations, categories, message):
    path, root = write_coco(tmp_path, images, annotations, categories)
    with pytest.raises(DatasetError, match=message) as caught:
        load_coco(path, root)
    assert str(path) in str(caught.value)


def test_missing_and_broken_files_are_named(tmp_path):
    path, root = write_coco(tmp_path)
    with pytest.raises(DatasetError, match=r"instance.json does not exist; did you mean .*instances.json"):
        load_coco(tmp_path / "instance.json", root)
    with pytest.raises(DatasetError, match=r"instances.json: its image folder .*nowhere does not exist"):
        load_coco(path, tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="cannot be read: "):
        load_coco(root, root)
    for content, message in [
        ('{"images": [', "is not valid JSON: .*line 1"),
        (json.dumps([{"score": 1}]), "holds a list, not an object .*file of results"),
        (json.dumps({"images": []}), "has no 'categories'; its keys are images"),
        (json.dumps({"images": [], "categories": {}}), "'categories' is not a list"),
    ]:
        path.write_text(content)
        with pytest.raises(DatasetError, match=message):
            load_coco(path, root)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="is not valid JSON"):
        load_coco(path, root)


def test_arrays_are_packed_and_read_only(tmp_path):
    images = [image_entry(i) for i in range(1, 101)]
    dataset = load_coco(*write_coco(tmp_path, images, [box_entry(i, i, [0, 0, 5, 5]) for i in range(1, 101)]))
    for name, value in vars(dataset).items():
        assert not isinstance(value, (list, tuple, dict)) or len(value) < 10, f"{name} holds Python objects"
    with pytest.raises(ValueError, match="read-only"):
        dataset.boxes[0] = 0
    dataset[0]["boxes"].zero_()
    np.testing.assert_array_equal(dataset.boxes[0], [0, 0, 5, 5])
    with pytest.raises(IndexError, match="image 100 of a data set of 100"):
        dataset[100]
    assert dataset[-1]["image_id"] == 100
    assert Path(dataset.file_name(1)).name == "2.png"
