import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from detrex_lite.data import DatasetError, load_coco
from detrex_lite.data.check import check_dataset
from detrex_lite.data.coco import read_coco

from .samples import CATEGORIES, box_entry, image_entry, write_coco


def test_category_ids_are_sorted_and_become_consecutive_classes(tmp_path):
    annotations = [box_entry(5, 1, [0, 0, 10, 10], 7), box_entry(9, 1, [1, 2, 3, 4], 2)]
    dataset = load_coco(*write_coco(tmp_path, annotations=annotations))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (2, 7)
    record = dataset[0]
    assert record["classes"].tolist() == [1, 0]
    assert record["annotation_ids"].tolist() == [5, 9]
    torch.testing.assert_close(record["boxes"], torch.tensor([[0.0, 0, 10, 10], [1, 2, 4, 6]]))


def test_record_has_all_annotations_of_an_image(tmp_path):
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


def test_ids_may_be_integral_floats(tmp_path):
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
def test_a_missing_annotations_key_differs_from_an_empty_list(tmp_path, annotations):
    dataset = load_coco(*write_coco(tmp_path, annotations=annotations))
    assert dataset.has_annotations == (annotations is not None)
    assert dataset[0]["boxes"].shape == (0, 4)


def test_bad_boxes_are_dropped_and_counted(tmp_path):
    boxes = [
        [5, 5, 0, 10],  # no width
        [5, 5, 10, -1],  # negative height
        [float("nan"), 5, 10, 10],
        [60, 5, 10, 10],  # starts at the right border of the image
        [-20, 5, 10, 10],
        [50, 30, 30, 30],  # partly outside
        [0, 0, 60.04, 40],  # exceeds the image only by rounding
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


def test_class_names_that_differ_from_the_file_raise_an_error(tmp_path):
    path, root = write_coco(tmp_path, annotations=[box_entry(1, 1, [0, 0, 5, 5])])
    assert load_coco(path, root, class_names=["cat", "dog"]).class_names == ("cat", "dog")
    with pytest.raises(DatasetError, match=r"\['cat', 'dog'\], .*class_names .*\['dog', 'cat'\]"):
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
        ([image_entry(1)], [], [], "it has no categories"),
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
            r"image 5: it has no 'width'",
        ),
        ([image_entry(5, height=0)], [], CATEGORIES, r"image 5: 'height' must be from 1 to 16777216, got 0"),
        ([{**image_entry(5), "file_name": 3}], [], CATEGORIES, r"image 5: 'file_name' must be text, got 3"),
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
def test_malformed_entries_raise_an_error_with_file_and_id(tmp_path, images, annotations, categories, message):
    path, root = write_coco(tmp_path, images, annotations, categories)
    with pytest.raises(DatasetError, match=message) as raised:
        load_coco(path, root)
    assert str(path) in str(raised.value)


def test_missing_and_malformed_files_raise_an_error(tmp_path):
    path, root = write_coco(tmp_path)
    with pytest.raises(DatasetError, match=r"instance.json does not exist; did you mean .*instances.json"):
        load_coco(tmp_path / "instance.json", root)
    with pytest.raises(DatasetError, match=r"instances.json: .*nowhere does not exist"):
        load_coco(path, tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="images is a folder, .* dataset.root"):
        load_coco(root, root)
    for content, message in [
        ('{"images": [', "is not valid JSON: .*line 1"),
        (json.dumps([{"score": 1}]), "a list, not an object"),
        (json.dumps({"images": []}), "has no 'categories'"),
        (json.dumps({"images": [], "categories": {}}), "'categories' is not a list"),
    ]:
        path.write_text(content)
        with pytest.raises(DatasetError, match=message):
            load_coco(path, root)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="is not valid JSON"):
        load_coco(path, root)


def test_annotations_are_stored_in_read_only_arrays(tmp_path):
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


HUGE, BEYOND_FLOAT = 10**30, 10**400


def _with_annotation(**changes):
    return [image_entry(1)], [{**GOOD, **changes}], CATEGORIES


def _with_image(**changes):
    return [{**image_entry(1), **changes}], [], CATEGORIES


def _with_category_name(name):
    return [image_entry(1)], [GOOD], [{"id": 2, "name": name}, {"id": 7, "name": "dog"}]


INVALID_VALUES = [
    (_with_annotation(iscrowd="0"), "annotation 3: 'iscrowd' must be an integer, got '0'"),
    (_with_annotation(iscrowd=[0]), r"annotation 3: 'iscrowd' must be an integer, got \[0\]"),
    (_with_annotation(iscrowd=True), "annotation 3: 'iscrowd' must be an integer, got True"),
    (_with_annotation(iscrowd=2), "annotation 3: 'iscrowd' must be from 0 to 1, got 2"),
    (_with_annotation(category_id=True), "annotation 3: 'category_id' must be an integer, got True"),
    (_with_annotation(image_id="1"), "annotation 3: 'image_id' must be an integer, got '1'"),
    (_with_annotation(image_id={}), "annotation 3: 'image_id' must be an integer, got {}"),
    (_with_annotation(id=HUGE), "annotation 1000000.*: 'id' must be from -9223372036854775808 to 9223372036854775807"),
    (_with_annotation(id=1e30), r"annotation 1e\+30: 'id' must be from"),
    (_with_annotation(area="12"), "annotation 3: 'area' must be a number, got '12'"),
    (_with_annotation(area=True), "annotation 3: 'area' must be a number, got True"),
    (_with_annotation(area=BEYOND_FLOAT), "annotation 3: 'area' is beyond the range"),
    (_with_annotation(bbox=[BEYOND_FLOAT, 0, 5, 5]), "annotation 3: 'bbox' is beyond the range"),
    (_with_annotation(bbox=[True, 0, 5, 5]), "annotation 3: 'bbox' must be four numbers"),
    (_with_image(id=HUGE), "image 1000000.*: 'id' must be from"),
    (_with_image(height=HUGE), "image 1: 'height' must be from 1 to 16777216, got 10000"),
    (_with_image(width=2**24 + 1), "image 1: 'width' must be from 1 to 16777216, got 16777217"),
    (_with_image(file_name="a\ud800.png"), r"image 1: 'file_name' holds '\\ud800'"),
    (_with_image(file_name="a\x00.png"), r"image 1: 'file_name' holds '\\x00'"),
    (_with_image(file_name=" "), "image 1: 'file_name' must not be blank"),
    (_with_category_name("a\udc80"), r"category 2: 'name' holds '\\udc80'"),
    (_with_category_name("a\nb\x1b[31m"), r"category 2: 'name' holds '\\n'"),
    (_with_category_name("\x1b[31mcat"), r"category 2: 'name' holds '\\x1b'"),
    (_with_category_name(None), "category 2: 'name' must be text, got None"),
    (_with_category_name({"x": 1}), "category 2: 'name' must be text, got {'x': 1}"),
    (_with_category_name(5), "category 2: 'name' must be text, got 5"),
    (_with_category_name(""), "category 2: 'name' must not be blank, got ''"),
    (
        ([image_entry(1, "a.png"), image_entry(2, "a.png")], [], CATEGORIES),
        "image 2: a.png is also .* image 1",
    ),
]


@pytest.mark.parametrize(("content", "message"), INVALID_VALUES)
def test_values_of_wrong_type_out_of_range_or_unprintable_are_faults(tmp_path, content, message):
    path, root = write_coco(tmp_path, *content)
    with pytest.raises(DatasetError, match=message) as raised:
        load_coco(path, root)
    assert str(path) in str(raised.value)
    assert str(raised.value).count(str(path)) == 1
    assert str(raised.value).isprintable()
    report = check_dataset(partial(read_coco, str(path), str(root)))
    faults = [fault for fault in report.faults if fault.kind not in ("image missing", "no images")]
    assert len(faults) == 1
    assert report.dataset is not None
    assert str(report).replace("\n", "").isprintable()


def test_integral_floats_and_nulls_of_optional_values_are_accepted(tmp_path):
    annotations = [box_entry(1, 1, [0, 0, 5, 5], iscrowd=1.0, area=None)]
    record = load_coco(*write_coco(tmp_path, annotations=annotations))[0]
    assert (record["iscrowd"].tolist(), record["area"].tolist()) == ([True], [25.0])


@pytest.mark.parametrize("area", [-5, float("inf"), float("-inf")])
def test_an_impossible_area_is_a_fault_and_replaced_by_the_area_of_the_box(tmp_path, caplog, area):
    annotations = [box_entry(1, 1, [0, 0, 5, 5], area=0.5), box_entry(2, 1, [9, 9, 6, 6], area=area)]
    path, root = write_coco(tmp_path, annotations=annotations)
    dataset = load_coco(path, root)
    assert dataset[0]["area"].tolist() == [0.5, 36.0]
    assert f"{path}: 1 annotations have a negative or infinite area (the first is {path}: annotation 2" in caplog.text
    faults = check_dataset(partial(read_coco, str(path), str(root))).faults
    assert [(fault.kind, f"annotation 2 (image 1.png): its area is {area:g}" in str(fault)) for fault in faults] == [
        ("area", True),
        ("image missing", False),
    ]


@pytest.mark.parametrize("location", ["annotations", "images", "whole", "id"])
def test_too_deeply_nested_json_is_a_fault(tmp_path, location):
    path, root = write_coco(tmp_path, annotations=[])
    deep = "[" * 200_000 + "]" * 200_000
    if location == "whole":
        path.write_text(deep)
    elif location == "id":
        path.write_text(path.read_text().replace('"id": 1', f'"id": {deep}'))
    else:
        path.write_text(f'{{"{location}": {deep}, ' + path.read_text()[1:])
    with pytest.raises(DatasetError, match="instances.json is nested too deeply"):
        load_coco(path, root)
    assert [fault.kind for fault in check_dataset(partial(read_coco, str(path), str(root))).faults] == ["unreadable"]


def test_deeply_nested_values_are_truncated_in_messages(tmp_path):
    deep = json.loads("[" * 400 + "]" * 400)
    path, root = write_coco(tmp_path, [image_entry(deep)])
    with pytest.raises(DatasetError, match=r"image \[\[\[.*'id' must be an integer, got \[\[") as raised:
        load_coco(path, root)
    assert len(str(raised.value)) < 1000


def test_repeated_keys_are_faults(tmp_path):
    path, root = write_coco(tmp_path, annotations=[GOOD])
    text = path.read_text()
    for content, message in [
        ('{"images": [], ' + text[1:], "'images' more than once"),
        (
            text.replace('"bbox":', '"bbox": [1, 1, 2, 2], "bbox":'),
            r"the object {.*'id': 3.*} has 'bbox' more than once",
        ),
    ]:
        path.write_text(content)
        with pytest.raises(DatasetError, match=message):
            load_coco(path, root)
        faults = check_dataset(partial(read_coco, str(path), str(root))).faults
        assert [fault.kind for fault in faults] == ["repeated key", "image missing"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_unicode_encodings_of_json_are_read(tmp_path, encoding):
    path, root = write_coco(tmp_path, [image_entry(1, "ü.png")], [GOOD])
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding=encoding)
    assert load_coco(path, root)[0]["file_name"] == str(root / "ü.png")


def test_malformed_class_names_are_not_reported_again_for_their_boxes(tmp_path):
    path, root = write_coco(tmp_path, [image_entry(1)], [GOOD], [{"id": 2, "name": None}])
    faults = check_dataset(partial(read_coco, str(path), str(root))).faults
    assert [fault.kind for fault in faults] == ["malformed entry", "image missing"]


def test_malformed_images_are_not_reported_again_for_their_boxes(tmp_path):
    images = [image_entry(1) | {"height": 0}, image_entry(2), image_entry(3) | {"file_name": None}]
    boxes = [GOOD | {"id": number, "image_id": number} for number in (1, 2, 3)]
    boxes[2]["bbox"] = "none"
    path, root = write_coco(tmp_path, images, boxes)
    faults = check_dataset(partial(read_coco, str(path), str(root))).faults
    assert [(fault.kind, fault.where.partition(": ")[2]) for fault in faults if fault.kind != "image missing"] == [
        ("malformed entry", "image 1"),
        ("malformed entry", "image 3"),
        ("malformed entry", "annotation 3"),
    ]
