"""Conversion of data sets between layouts, and back."""

import itertools
import json

import numpy as np
import pytest
import torch

from detrex_lite.data import DatasetError, convert_dataset, find_dataset
from detrex_lite.structures import as_masks

from . import samples
from .test_finding import contents


def write_coco(root, annotations):
    """Write a COCO data set of four images, of which only the first has objects."""
    for split, stems in (("train", "ab"), ("val", "cd")):
        content = samples.coco_content(stems)
        content["annotations"] = annotations if split == "train" else []
        samples.write_json(root / f"{split}.json", content)
    samples.write_images(root / "images")
    return root


@pytest.mark.parametrize("path", [("yolo", "voc", "csv", "coco"), ("csv", "coco", "voc", "yolo", "csv")])
def test_a_round_trip_through_layouts_keeps_boxes_and_images(tmp_path, path):
    rng = np.random.default_rng(0)
    root = samples.roboflow(tmp_path / "start")
    file = root / "train/_annotations.coco.json"
    content = json.loads(file.read_text())
    for number in range(50):  # coordinates with many digits
        x, y, w, h = rng.uniform(0.01, 19, 4).tolist()
        entry = {"id": 100 + number, "image_id": 1, "category_id": 1 + number % 2, "bbox": [x, y, w, h]}
        content["annotations"].append(entry)
    file.write_text(json.dumps(content))
    original = find_dataset(root)
    converted = original
    for number, layout in enumerate(path):
        result = convert_dataset(converted, tmp_path / f"{number}", layout)
        assert result.images == {"train": 2, "val": 2}
        converted = find_dataset(tmp_path / f"{number}")
        assert converted.layout == {"yolo": "YOLO", "voc": "Pascal VOC", "csv": "CSV", "coco": "COCO"}[layout]
        assert converted.remarks == ()
    for split in ("train", "val"):
        assert contents(converted.load(split)) == contents(original.load(split))
        for record, original_record in zip(converted.load(split), original.load(split), strict=True):
            with (
                open(record["file_name"], "rb") as converted_file,
                open(original_record["file_name"], "rb") as original_file,
            ):
                assert converted_file.read() == original_file.read()
    assert converted.class_names == original.class_names == ("cat", "dog")


def test_coco_keeps_ids_areas_crowds_and_masks(tmp_path):
    entry = {"image_id": 1, "category_id": 2, "bbox": [5, 5, 10, 10]}
    polygons = [[5, 5, 15, 5, 15, 15], [5, 9, 5, 15, 9.5, 15]]
    mask = np.zeros((40, 60), bool)
    mask[5:15, 5:15] = True
    runs = np.diff(np.flatnonzero(np.diff(mask.T.reshape(-1), prepend=False, append=True)), prepend=0)
    lengths = {"size": [40, 60], "counts": [*runs.tolist(), 40 * 60 - int(runs.sum())]}
    annotations = [
        {**entry, "id": 7, "segmentation": polygons, "area": 77.5},
        {**entry, "id": 9, "segmentation": lengths, "iscrowd": 1},
    ]
    original = find_dataset(write_coco(tmp_path / "first", annotations))
    assert convert_dataset(original, tmp_path / "second", "coco", masks=True, link=True).remarks == []
    converted = find_dataset(tmp_path / "second")
    assert original.has_masks
    assert converted.has_masks
    original_record, converted_record = (dataset.load("train", masks=True)[0] for dataset in (original, converted))
    for key in ("boxes", "classes", "iscrowd", "area", "annotation_ids"):
        torch.testing.assert_close(original_record[key], converted_record[key], rtol=0, atol=0)
    torch.testing.assert_close(
        *(as_masks(record["segmentations"], (40, 60)) for record in (original_record, converted_record))
    )
    assert (tmp_path / "second/train/a.png").is_symlink()
    remarks = convert_dataset(original, tmp_path / "voc", "voc").remarks
    assert any("1 crowds" in remark for remark in remarks)
    assert any("not converted" in remark for remark in remarks)
    assert any("an area that differs" in remark for remark in remarks)
    assert find_dataset(tmp_path / "voc").load("train")[0]["iscrowd"].tolist() == [False, True]
    for layout, message in (("yolo", "1 crowds"), ("csv", "1 crowds"), ("xml", "choices: coco, yolo, voc, csv")):
        with pytest.raises(DatasetError, match=message):
            convert_dataset(original, tmp_path / layout, layout)
        assert not (tmp_path / layout).exists()


def test_polygons_round_trip_through_yolo(tmp_path):
    polygon = [5, 5, 15.25, 5, 12, 15.1]
    entry = {"image_id": 1, "category_id": 2, "bbox": [5, 5, 10.25, 10.1], "segmentation": [polygon]}
    original = find_dataset(write_coco(tmp_path / "first", [{**entry, "id": 3}]))
    assert convert_dataset(original, tmp_path / "yolo", "yolo", masks=True).remarks == [
        "Category ids change: cat 1 -> 0, dog 2 -> 1"
    ]
    converted = find_dataset(tmp_path / "yolo")
    record = converted.load("train", masks=True)[0]
    np.testing.assert_array_equal(record["segmentations"][0][0], polygon)
    torch.testing.assert_close(record["boxes"], original.load("train")[0]["boxes"], rtol=0, atol=0)
    two_polygons = [polygon, [20, 20, 30, 20, 30, 30]]
    for number, (segmentation, message) in enumerate(
        [(two_polygons, "annotation 3 has 2 polygons"), ({"size": [40, 60], "counts": [2400]}, "run lengths")]
    ):
        source = write_coco(tmp_path / f"{number}", [{**entry, "id": 3, "segmentation": segmentation}])
        with pytest.raises(DatasetError, match=message):
            convert_dataset(find_dataset(source), tmp_path / "out", "yolo", masks=True)
    with pytest.raises(DatasetError, match="boxes only"):
        convert_dataset(original, tmp_path / "out", "voc", masks=True)


def test_conflicts_raise_an_error_before_any_file_is_written(tmp_path):
    root = write_coco(tmp_path / "first", [])
    content = samples.coco_content("ab")
    samples.write_json(root / "val.json", content)
    dataset = find_dataset(root)
    with pytest.raises(DatasetError, match="both be called a"):  # both splits have an image of this name
        convert_dataset(dataset, tmp_path / "out", "voc")
    with pytest.raises(DatasetError, match="is not empty"):
        convert_dataset(dataset, root, "yolo")
    (root / "images/a.png").unlink()
    with pytest.raises(DatasetError, match=r"a\.png does not exist"):
        convert_dataset(dataset, tmp_path / "out", "yolo")
    samples.write_images(root / "images", ("a",))
    content["images"][0]["height"] = 41
    samples.write_json(root / "val.json", content)
    with pytest.raises(DatasetError, match="40 high and 60 wide"):
        convert_dataset(find_dataset(root), tmp_path / "out", "yolo")
    assert not (tmp_path / "out").exists()


def test_unusable_boxes_are_counted(tmp_path):
    boxes = [[5, 5, 0, 10], [50, 5, 20, 10], [70, 5, 5, 5]]
    entries = [{"id": k, "image_id": 1, "category_id": 1, "bbox": box} for k, box in enumerate(boxes)]
    result = convert_dataset(find_dataset(write_coco(tmp_path / "first", entries)), tmp_path / "out", "csv")
    kinds = ("box without area", "box partly outside the image", "box outside the image")
    assert all(any(f"{kind}: 1 " in remark for remark in result.remarks) for kind in kinds)
    assert "Classes without a box cannot be kept: dog" in result.remarks


def test_subfolders_of_a_split_are_kept(tmp_path):
    root = tmp_path / "first"
    for split, folder in itertools.product(("train", "val"), ("images/one", "images/two")):
        samples.write_images(root / split / folder, ("a",))
        (root / split / folder.replace("images", "labels")).mkdir(parents=True)
        (root / split / folder.replace("images", "labels") / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "data.yaml").write_text("train: train/images\nval: val/images\nnames: {0: cat}\n")
    convert_dataset(find_dataset(root), tmp_path / "out", "yolo")
    assert (tmp_path / "out/images/train/train/one/a.png").is_file()
    assert find_dataset(tmp_path / "out").load("train").num_boxes == 2
