import os
from functools import partial

import pytest

from detrex_lite.data import from_records, register_dataset
from detrex_lite.data.check import check_dataset, named_reader
from detrex_lite.data.coco import read_coco
from detrex_lite.data.voc import read_voc

from .samples import (
    box_entry,
    image_entry,
    object_xml,
    write_coco,
    write_image,
    write_same_content_twice,
    write_xml,
)


def check_coco(path, root, **options):
    return check_dataset(partial(read_coco, str(path), str(root)), **options)


def kinds(report):
    return sorted(fault.kind for fault in report.faults)


def test_every_fault_is_listed_and_valid_entries_are_read(tmp_path):
    images = [image_entry(i) for i in (1, 2, 3, 4)] + [image_entry(1, "again.png"), {"id": 9}]
    annotations = [
        box_entry(1, 1, [0, 0, 5, 5]),
        box_entry(1, 1, [0, 0, 6, 6]),
        box_entry(2, 1, [0, 0, 5, 5]),
        box_entry(3, 1, [0, 0, 5, 5], 7),  # of another class, so not a duplicate
        box_entry(4, 55, [0, 0, 5, 5]),
        box_entry(5, 1, [0, 0, 5, 5], 55),
        box_entry(6, 2, [0, 0, 0, 5]),
        box_entry(7, 2, [100, 0, 5, 5]),
        box_entry(8, 2, [50, 0, 50, 5]),
        box_entry(10, 2, [float("inf"), 0, 50, 5]),
        box_entry(11, 2, None),
    ]
    path, root = write_coco(tmp_path, images, annotations)
    write_image(root / "1.png", 40, 60)
    write_image(root / "2.png", 20, 30)
    (root / "3.png").write_text("broken")
    report = check_coco(path, root)
    assert kinds(report) == sorted(
        [
            "duplicate id",  # image 1
            "missing key",  # image 9
            "duplicate id",  # annotation 1
            "duplicate box",  # annotation 2
            "unknown image",
            "unknown category",
            "box without area",
            "box outside the image",
            "box partly outside the image",
            "box not finite",
            "malformed entry",
            "image size",
            "image unreadable",
            "image missing",
        ]
    )
    text = str(report)
    for line in (
        f"{path}: annotation 2 (image 1.png): the same class and box as {path}: annotation 1 (image 1.png)",
        f"{path}: annotation 6 (image 2.png): the box (0, 0, 0, 5) (x0, y0, x1, y1) is without area",
        f"{root / '2.png'}: the image is 20 high and 30 wide, but its annotation says 40 high and 60 wide",
        f"{root / '4.png'}: the image does not exist",
        "14 faults",
        "num_classes to set: 2",
        "images without objects: 2",
    ):
        assert line in text
    assert [len(record["boxes"]) for record in report.dataset] == [3, 1, 0, 0]


def test_report_counts_boxes_per_class_and_size(tmp_path):
    annotations = [
        box_entry(1, 1, [0, 0, 31, 32]),
        box_entry(2, 1, [0, 0, 32, 32]),
        box_entry(3, 2, [0, 0, 95, 97]),
        box_entry(4, 2, [0, 0, 96, 96], iscrowd=1),
        box_entry(5, 2, [0, 0, 100, 50], 7, area=10),
    ]
    images = [image_entry(1, height=200, width=200), image_entry(2, height=200, width=200)]
    path, root = write_coco(tmp_path, images, annotations)
    for i in (1, 2):
        write_image(root / f"{i}.png", 200, 200)
    report = check_coco(path, root)
    assert report.faults == []
    rows = [line.split() for line in str(report).splitlines()]
    assert ["class", "boxes", "small", "medium", "large", "images"] in rows
    assert ["cat", "4", "1", "2", "1", "2"] in rows
    assert ["dog", "1", "1", "0", "0", "1"] in rows
    assert ["all", "5", "2", "2", "1", "2"] in rows
    assert "crowd or ignored boxes: 1" in str(report)
    assert str(report).endswith("no faults")


def test_truncated_images_are_faults_only_when_decoded(tmp_path):
    path, root = write_coco(tmp_path, [image_entry(1, "1.jpg", 200, 300)], [box_entry(1, 1, [0, 0, 5, 5])])
    image = write_image(root / "1.jpg", 200, 300)
    image.write_bytes(image.read_bytes()[:-500])
    assert kinds(check_coco(path, root, decode=False)) == []
    assert kinds(check_coco(path, root)) == ["image unreadable"]


def test_missing_image_folder_is_one_fault(tmp_path):
    path, _ = write_coco(tmp_path, annotations=[box_entry(1, 1, [0, 0, 5, 5])])
    assert kinds(check_coco(path, tmp_path / "nowhere")) == ["image folder missing"]


def test_unreadable_file_is_a_fault(tmp_path):
    report = check_coco(tmp_path / "none.json", tmp_path)
    assert report.dataset is None
    assert kinds(report) == ["unreadable"]
    assert "none.json does not exist" in str(report)
    assert "1 fault\n" in str(report)


def test_report_says_that_annotations_are_missing(tmp_path):
    path, root = write_coco(tmp_path)
    write_image(root / "1.png")
    assert "no annotations" in str(check_coco(path, root))


def test_voc_faults_are_listed(tmp_path):
    write_same_content_twice(tmp_path)
    write_xml(tmp_path, "e", [object_xml("cat", ("x", 0, 1, 1)), object_xml("cat", (1, 1, 9, 9)), "<object/>"])
    (tmp_path / "annotations/f.xml").write_text("<annotation>")
    (tmp_path / "split.txt").write_text("a\nb\ne\nf\ng\na\n")
    read = partial(read_voc, str(tmp_path / "annotations"), str(tmp_path / "images"), str(tmp_path / "split.txt"))
    report = check_dataset(read)
    assert kinds(report) == sorted(
        [
            "duplicate id",  # the split lists 'a' twice
            "box without area",
            "box partly outside the image",
            "malformed entry",
            "malformed entry",  # an object without a name
            "malformed file",
            "missing file",
            "image missing",
        ]
    )
    assert f"{tmp_path / 'annotations/b.xml'}: object 1 (dog): the box (10, 10, 10, 30)" in str(report)
    assert len(report.dataset) == 3


def test_data_sets_are_checked_by_name(tmp_path, monkeypatch):
    record = {"file_name": str(tmp_path / "a.png"), "height": 40, "width": 60}
    register_dataset("test_checked", lambda: from_records([record], name="test_checked", class_names=["x"]))
    assert kinds(check_dataset(named_reader("test_checked"))) == ["image missing"]
    path, _ = write_coco(tmp_path / "coco", annotations=[box_entry(1, 1, [0, 0, 5, 5])])
    (tmp_path / "coco/annotations").mkdir()
    path.rename(tmp_path / "coco/annotations/instances_val2017.json")
    write_image(tmp_path / "coco/val2017/1.png")
    monkeypatch.setenv("DETREX_DATASETS", str(tmp_path))
    report = check_dataset(named_reader("coco_2017_val"))
    assert report.faults == []
    assert str(report).startswith("coco_2017_val: 1 images, 1 usable boxes")
    with pytest.raises(ValueError, match="no data set 'coco_2017_vla'"):
        named_reader("coco_2017_vla")


def test_file_names_that_are_not_valid_text_can_be_printed(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    path, root = write_coco(folder, annotations=[box_entry(1, 1, [0, 0, 5, 5])])
    path = path.rename(path.with_name(os.fsdecode(b"f\xe9.json")))
    report = check_coco(path, root)
    assert kinds(report) == ["image missing"]
    assert report.dataset.name == os.fsdecode(b"f\xe9")
    assert r"caf\udce9" in str(report)
    str(report).encode("utf-8")
    str(check_coco(folder / "none.json", root)).encode("utf-8")


def test_an_error_of_the_operating_system_is_a_fault(tmp_path):
    def read(*, log):
        raise PermissionError(13, "Permission denied", "annotations")

    report = check_dataset(read)
    assert kinds(report) == ["unreadable"]
    assert "Permission denied: 'annotations'" in str(report)
