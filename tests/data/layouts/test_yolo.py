"""Variants of YOLO folders, and their faults."""

import numpy as np
import pytest
import torch

from detrex_lite.data import DatasetError, find_dataset
from detrex_lite.data.faults import FaultLog
from detrex_lite.data.yolo import label_path

from . import samples
from .test_finding import contents


def roboflow_folders(root):
    """Write train/images and train/labels, which data.yaml refers to as ../train/images."""
    samples.yolo(root)
    for split in samples.SPLITS:
        (root / split).mkdir()
        for part in ("images", "labels"):
            (root / part / split).rename(root / split / part)
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['cat', 'dog']\n"
    )
    return root


def lists_of_images(root):
    samples.yolo(root, "path: .\ntrain: train.txt\nval: [images/valid]\nnames: {1: dog, 0: cat}\n")
    (root / "train.txt").write_text("./images/train/a.png\n\nimages/train/b.png\n")
    return root


def labels_next_to_images(root):
    """Write label files next to the images, and class names in classes.txt."""
    samples.yolo(root)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    for split in samples.SPLITS:
        for path in (root / "labels" / split).iterdir():
            path.rename(root / "images" / split / path.name)
        (root / "images" / split).rename(root / split)
    return root


def labels_without_yaml(root):
    samples.yolo(root)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


@pytest.mark.parametrize("write", [roboflow_folders, lists_of_images, labels_next_to_images, labels_without_yaml])
def test_yolo_folders_are_detected(tmp_path, write):
    dataset = find_dataset(write(tmp_path))
    for split, stems in zip(("train", "val"), samples.SPLITS.values(), strict=True):
        assert contents(dataset.load(split)) == {stem: samples.OBJECTS[stem] for stem in stems}
    assert dataset.layout == "YOLO"
    assert ("The test set is left out" in " ".join(dataset.remarks)) == (write is roboflow_folders)
    assert dataset.load("train").category_ids == (0, 1)


def test_a_yaml_file_may_refer_to_another_folder(tmp_path):
    samples.yolo(tmp_path / "elsewhere")
    for text in (f"path: {tmp_path}/elsewhere", "path: ../elsewhere"):
        (tmp_path / "configs").mkdir(exist_ok=True)
        file = tmp_path / "configs/animals.yaml"
        file.write_text(f"{text}\ntrain: images/train\nval: images/valid\nnames: [cat, dog]\n")
        assert len(find_dataset(file).load("val")) == 2
    missing_path = "path: /data/on/another/machine\ntrain: images/train\nval: images/valid\nnames: [cat, dog]\n"
    (tmp_path / "elsewhere/data.yaml").write_text(missing_path)
    assert len(find_dataset(tmp_path / "elsewhere").load("val")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/trian\nval: images/valid\nnames: [cat, dog]", r"images/trian does not exist"),
        ("train: images/train\nval: nowhere\nnames: [cat, dog]", r"nowhere does not exist"),
        ("path: /nowhere\ntrain: a\nval: b\nnames: [cat]", "'path' /nowhere does not exist"),
        ("train: images/train\nval: images/valid\nnames: [cat, dog]\nnc: 3", "nc is 3, but 'names' has 2"),
        ("train: images/train\nval: images/valid\nnames: {0: cat, 2: dog}", r"without gaps, got \[0, 2\]"),
        ("train: images/train\nval: images/valid\nnames: [yes, no]", "truth value"),
        ("train: images/train\nval: images/valid\nnames: [cat, cat]", "'cat' more than once"),
        ("train: images/train\nval: images/valid\nnames: cat", "list of class names"),
        ("train: 3\nval: images/valid\nnames: [cat, dog]", "'train' must be .* got 3"),
        ("train: data.yaml\nval: images/valid\nnames: [cat, dog]", "neither a folder nor a .txt file"),
        ("train: images/train\nval: list.txt\nnames: [cat, dog]", r"list.txt: line 2: image gone.png does not exist"),
        ("train: images/train\nnames: [cat, dog]\nkpt_shape: [17, 3]", "poses with key points"),
        ("train: [images/train\nnames: cat", "is not valid YAML"),
    ],
)
def test_malformed_yaml_files_raise_an_error(tmp_path, text, message):
    samples.yolo(tmp_path, text)
    (tmp_path / "list.txt").write_text("images/valid/c.png\ngone.png\n")
    with pytest.raises(DatasetError, match=message):
        find_dataset(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "got 4: '0 0.5 0.5 0.2'"),
        ("0 0.5 0.5 0.2 0.2 0.9", "got 6"),
        ("2 0.5 0.5 0.2 0.2", "class 2 is not among .* 0 to 1"),
        ("-1 0.5 0.5 0.2 0.2", "class -1"),
        ("0.5 0.5 0.5 0.2 0.2", "'class' must be .* got 0.5"),
        ("cat 0.5 0.5 0.2 0.2", "a line must be numbers"),
        ("0 30 20 10 10", "30 is not a fraction"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "got 8"),
    ],
)
def test_malformed_label_lines_raise_an_error_with_their_number(tmp_path, line, message):
    samples.yolo(tmp_path)
    (tmp_path / "labels/train/a.txt").write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n1 0.5 0.5 0.2 0.2\n")
    dataset = find_dataset(tmp_path)
    with pytest.raises(DatasetError, match=rf"labels/train/a.txt: line 2: .*{message}"):
        dataset.load("train")
    log = FaultLog(strict=False)
    assert len(dataset.read("train", log=log)[0]["boxes"]) == 2
    assert [fault.kind for fault in log.faults] == ["malformed line"]


def test_boxes_are_clipped_and_dropped_like_in_other_layouts(tmp_path):
    samples.yolo(tmp_path)
    (tmp_path / "labels/train/a.txt").write_text("0 0.9 0.5 0.4 0.5\n1 0.5 0.5 0 0.5\n1 nan 0.5 0.5 0.5\n")
    dataset = find_dataset(tmp_path).load("train")
    assert dataset[0]["boxes"].tolist() == [[42, 10, 60, 30]]
    assert dataset.dropped == {"not finite": 1, "without area": 1}
    assert dataset.clipped == 1


def test_polygons_are_read_as_masks(tmp_path):
    samples.yolo(tmp_path)
    (tmp_path / "labels/train/a.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.5\n0 0.2 0.25 0.6 0.25 0.6 0.75 0.2 0.75\n")
    dataset = find_dataset(tmp_path)
    assert dataset.has_masks
    with pytest.raises(DatasetError, match=r"b.txt: line 1: .* a polygon"):
        dataset.load("train", masks=True)
    record = dataset.load("train")[0]
    assert record["boxes"].tolist() == [[6, 4, 30, 20], [12, 10, 36, 30]]
    torch.testing.assert_close(record["area"], torch.tensor([192.0, 480.0]))
    (tmp_path / "labels/train/b.txt").write_text("")
    record = find_dataset(tmp_path).load("train", masks=True)[0]
    np.testing.assert_array_equal(record["segmentations"][0][0], [6, 4, 30, 4, 30, 20])


def test_missing_label_files_and_labels_without_images_are_faults(tmp_path):
    samples.yolo(tmp_path)
    (tmp_path / "labels/valid/d.txt").unlink()
    dataset = find_dataset(tmp_path)
    with pytest.raises(DatasetError, match="none of its 2 images has a label file.*c.png"):
        dataset.load("val")
    (tmp_path / "labels/train/e.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    log = FaultLog(strict=False)
    dataset.read("train", log=log)
    assert [(fault.kind, fault.where) for fault in log.faults] == [
        ("label without image", str(tmp_path / "labels/train/e.txt"))
    ]


def test_an_image_of_unknown_size_is_skipped_with_a_warning(tmp_path, caplog):
    samples.yolo(tmp_path)
    (tmp_path / "images/train/a.png").write_bytes(b"broken")
    assert len(find_dataset(tmp_path).load("train")) == 1
    assert "1 images are left out" in caplog.text


def test_label_path_replaces_the_last_images_folder():
    assert label_path("/images/a/images/train/b.c.png") == "/images/a/labels/train/b.c.txt"
    assert label_path("/a/train/b.png") == "/a/train/b.txt"


def test_labels_without_class_names_raise_an_error(tmp_path):
    samples.yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DatasetError, match="label files and no class names"):
        find_dataset(tmp_path)
