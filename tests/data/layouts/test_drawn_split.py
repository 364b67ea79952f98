"""Random splits of folders without a validation set."""

import json
import os
import shutil

import pytest

from detrex_lite.data import DatasetError, find_dataset
from detrex_lite.data.check_folder import check_folder

from ..samples import write_image
from . import samples
from .test_finding import contents


def coco_file(number, start=0):
    entries = [{"id": k, "file_name": f"{k:03}.png", "height": 40, "width": 60} for k in range(start, start + number)]
    annotations = [
        {"id": k, "image_id": k, "category_id": 1 + k % 2, "bbox": [k % 7, 5, 10, 10]}
        for k in range(start, start + number)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": entries, "annotations": annotations, "categories": categories}


@pytest.fixture
def root(tmp_path):
    samples.write_json(tmp_path / "train/boxes.json", coco_file(20))
    for k in range(24):
        write_image(tmp_path / f"train/{k:03}.png", 40, 60 if k else 61)
    return tmp_path


def file_names(dataset):
    return {os.path.basename(dataset.file_name(index)) for index in range(len(dataset))}


def test_a_split_is_drawn_once_and_saved(root):
    dataset = find_dataset(root, val_share=0.25)
    assert dataset.splits == ("train", "val")
    assert (len(dataset.load("train")), len(dataset.load("val"))) == (15, 5)
    assert dataset.load("train").name.endswith("_train")
    assert not file_names(dataset.load("train")) & file_names(dataset.load("val"))
    for record in dataset.load("val"):  # each image keeps its boxes
        image_id = record["image_id"]
        assert (record["boxes"][0, 0], record["classes"].tolist(), record["annotation_ids"].tolist()) == (
            image_id % 7,
            [image_id % 2],
            [image_id],
        )
    content = json.loads((root / "split_seed0_val0.25.json").read_text())
    assert {name.removeprefix("train/") for name in content["val"]} == file_names(dataset.load("val"))
    assert "split_seed0_val0.25.json" in " ".join(dataset.remarks)
    dataset_of_seed_1 = find_dataset(root, seed=1, val_share=0.25)
    assert file_names(dataset_of_seed_1.load("val")) != file_names(dataset.load("val"))
    assert find_dataset(root, val_share=0.25) is dataset
    assert len(find_dataset(root).load("val")) == 4


def test_images_added_later_are_used_for_training(root):
    val_images = file_names(find_dataset(root).load("val"))
    samples.write_json(root / "train/boxes.json", coco_file(24))
    dataset = find_dataset(root)
    assert file_names(dataset.load("val")) == val_images
    assert len(dataset.load("train")) == 20
    (root / "split_seed0_val0.2.json").write_text('{"val": ["train/003.png", "train/999.png"]}')
    samples.write_json(root / "train/boxes.json", coco_file(23))
    assert file_names(find_dataset(root).load("val")) == {"003.png"}


def test_split_of_a_seed_never_changes(root):
    find_dataset(root).load("val")
    written = json.loads((root / "split_seed0_val0.2.json").read_text())
    # This result must never change, so that resumed runs of later versions use the same images.
    assert written["val"] == ["train/005.png", "train/011.png", "train/014.png", "train/016.png"]


def test_a_test_set_is_not_split(root):
    samples.write_json(root / "test/boxes.json", coco_file(4, 20))
    for k in range(20, 24):
        (root / f"train/{k:03}.png").rename(root / f"test/{k:03}.png")
    dataset = find_dataset(root)
    assert dataset.splits == ("train", "val", "test")
    assert [len(dataset.load(split)) for split in dataset.splits] == [16, 4, 4]
    report = check_folder(root)
    assert list(report.reports) == ["all", "test"]


def test_a_check_writes_no_split_file(root):
    (root / "train/005.png").write_bytes((root / "train/006.png").read_bytes())
    report = check_folder(root)
    assert [path.name for path in root.iterdir()] == ["train"]
    assert any(fault.kind == "image in two splits" for fault in report.all_faults)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"val": "a"}', "is not a list of file names"),
        ('{"train": []}', "cannot be read"),
        ('{"val": ["gone.png"]}', "leaves no image for validation"),
    ],
)
def test_invalid_split_files_raise_an_error(root, content, message):
    (root / "split_seed0_val0.2.json").write_text(content)
    with pytest.raises(DatasetError, match=f"split_seed0_val0.2.json.*{message}.*delete it"):
        find_dataset(root).load("val")


def test_a_read_only_folder_is_split_with_a_warning(root, monkeypatch, caplog):
    def deny(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", deny)
    assert len(find_dataset(root).load("val")) == 4
    assert "cannot be saved (Permission denied)" in caplog.text


@pytest.mark.parametrize("val_share", [0, 1, -0.1, "a", None])
def test_invalid_validation_shares_raise_an_error(root, val_share):
    with pytest.raises(DatasetError, match="val_share must be"):
        find_dataset(root, val_share=val_share)


def test_a_single_image_or_an_invalid_seed_raises_an_error(root):
    samples.write_json(root / "train/boxes.json", coco_file(1))
    with pytest.raises(DatasetError, match="has 1 image: .* at least two"):
        find_dataset(root).load("train")
    with pytest.raises(DatasetError, match="seed .* got 0.5"):
        find_dataset(root, seed=0.5)


def voc_without_lists(root):
    samples.voc(root)
    shutil.rmtree(root / "ImageSets")


def yolo_with_training_alone(root):
    samples.yolo(root, "train: [images/train, images/valid]\nnames: [cat, dog]\n")


def yolo_in_one_folder(root):
    samples.write_images(root)
    for stem, objects in samples.OBJECTS.items():
        (root / f"{stem}.txt").write_text(
            "".join(f"{samples.yolo_line(*class_and_box)}\n" for class_and_box in objects)
        )
    (root / "classes.txt").write_text("cat\ndog\n")


def coco_in_one_file(root):
    samples.write_json(root / "result.json", samples.coco_content())
    samples.write_images(root / "images")


@pytest.mark.parametrize("write", [voc_without_lists, yolo_with_training_alone, yolo_in_one_folder, coco_in_one_file])
def test_a_split_is_drawn_in_every_layout(tmp_path, write):
    write(tmp_path)
    dataset = find_dataset(tmp_path)
    train, val = (contents(dataset.load(split)) for split in ("train", "val"))
    assert (len(train), len(val)) == (3, 1)
    assert {**train, **val} == samples.OBJECTS
