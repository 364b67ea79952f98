"""Data sets from folders of images, from records and by name, and subsets."""

import numpy as np
import pytest
import torch

from detrex_lite.data import (
    DatasetError,
    from_records,
    load_dataset,
    load_folder,
    register_dataset,
    subset,
)

from .samples import (
    assert_same_record,
    box_entry,
    image_entry,
    object_xml,
    write_coco,
    write_image,
    write_xml,
)


def test_folders_patterns_and_lists_of_images_are_loaded(tmp_path):
    write_image(tmp_path / "b.png", 30, 50)
    write_image(tmp_path / "a.jpg", 40, 60)
    (tmp_path / "notes.txt").touch()
    dataset = load_folder(tmp_path, ["cat"])
    assert [record["file_name"] for record in dataset] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.png")]
    assert (dataset.heights.tolist(), dataset.widths.tolist()) == ([40, 30], [60, 50])
    assert not dataset.has_annotations
    assert dataset.category_ids == (1,)
    assert dataset.name == tmp_path.name
    assert load_folder(tmp_path, ["cat"]) is dataset
    assert len(load_folder(str(tmp_path / "*.png"), ["cat"])) == 1
    assert load_folder([tmp_path / "b.png", tmp_path / "a.jpg"], ["cat"])[0]["height"] == 30


def test_invalid_folders_raise_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty holds no image"):
        load_folder(tmp_path / "empty", ["cat"])
    with pytest.raises(DatasetError, match="no file matches"):
        load_folder(tmp_path / "*.jpg", ["cat"])
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        load_folder(tmp_path / "nowhere", ["cat"])
    with pytest.raises(DatasetError, match="list of paths is empty"):
        load_folder([], ["cat"])
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"broken.jpg cannot be read"):
        load_folder(tmp_path, ["cat"])


def test_records_become_a_data_set():
    records = [
        {
            "file_name": "a.jpg",
            "height": 40,
            "width": 60,
            "boxes": [[0, 0, 5, 5], [9, 9, 9, 9]],
            "classes": [1, 0],
        },
        {"file_name": "b.jpg", "height": 40, "width": 60},
        {
            "file_name": "c.jpg",
            "height": 40,
            "width": 60,
            "boxes": torch.tensor([[1.0, 2, 3, 4]]),
            "classes": torch.tensor([0]),
            "iscrowd": [1],
            "area": [3.5],
        },
    ]
    dataset = from_records(records, name="mine", class_names=["cat", "dog"], category_ids=[10, 20])
    assert dataset.category_ids == (10, 20)
    assert dataset.dropped == {"without area": 1}
    assert [len(record["boxes"]) for record in dataset] == [1, 0, 1]
    assert dataset[2]["area"].tolist() == [3.5]
    assert dataset[2]["iscrowd"].tolist() == [True]
    assert dataset.image_ids.tolist() == [1, 2, 3]
    assert dataset.annotation_ids.tolist() == [1, 3]


ONE_BOX = {"boxes": [[0, 0, 5, 5]], "classes": [0]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"file_name": "a.jpg"}, "record 0 has no 'height' and no 'width'"),
        ({"boxes": [[0, 0, 5, 5]]}, "record 0 has 1 boxes, but 0 classes"),
        ({"boxes": [[0, 0, 5, 5]], "classes": [2]}, r"record 0, box 0: 'classes' must be from 0 to 1, got 2"),
        ({**ONE_BOX, "iscrowd": ["0"]}, "record 0, box 0: 'iscrowd' must be an integer, got '0'"),
        ({**ONE_BOX, "area": ["4"]}, "record 0, box 0: 'area' must be a number, got '4'"),
        ({**ONE_BOX, "classes": [True]}, "record 0, box 0: 'classes' must be an integer, got True"),
        ({**ONE_BOX, "classes": [0.5]}, "record 0, box 0: 'classes' must be an integer, got 0.5"),
        ({**ONE_BOX, "boxes": [["0", 0, 5, 5]]}, "record 0: 'boxes' must be rows of four numbers"),
        ({**ONE_BOX, "boxes": [[0, 0, 5, 5], [0]]}, "record 0: 'boxes' must be rows of four numbers"),
        ({**ONE_BOX, "height": 10**30}, "record 0: 'height' must be from 1 to 16777216, got 10000"),
        ({**ONE_BOX, "width": "60"}, "record 0: 'width' must be an integer, got '60'"),
    ],
)
def test_malformed_records_raise_an_error(record, message):
    if "file_name" not in record:
        record = {"file_name": "a.jpg", "height": 40, "width": 60, **record}
    with pytest.raises(DatasetError, match=message):
        from_records([record], name="mine", class_names=["cat", "dog"])


def test_records_accept_numpy_numbers_and_booleans():
    record = {
        "file_name": "a.jpg",
        "height": np.int64(40),
        "width": 60.0,
        "boxes": np.array([[0, 0, 5, 5], [1, 1, 5, 5]], dtype=np.uint8),
        "classes": np.array([1, 0], dtype=np.int16),
        "iscrowd": [True, False],
        "area": [-1, 3],
    }
    loaded_record = from_records([record], name="mine", class_names=["cat", "dog"])[0]
    assert (loaded_record["classes"].tolist(), loaded_record["iscrowd"].tolist()) == ([1, 0], [True, False])
    assert loaded_record["area"].tolist() == [25, 3]


@pytest.mark.parametrize("name", [None, 5, "", " ", "a\nb", "a\ud800"])
def test_invalid_class_names_raise_an_error(name):
    with pytest.raises(DatasetError, match=r"'class_names\[1\]' (must|holds)"):
        from_records([], name="mine", class_names=["cat", name])


def test_records_need_one_id_per_class():
    with pytest.raises(DatasetError, match="1 category_ids for 2 class_names"):
        from_records([], name="mine", class_names=["cat", "dog"], category_ids=[1])


@pytest.fixture
def no_dataset_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("DETREX_DATASETS", raising=False)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)


def _write_named(root, images=1):
    path, _ = write_coco(root / "coco", [image_entry(i) for i in range(images)], [box_entry(1, 0, [0, 0, 5, 5])])
    (root / "coco/annotations").mkdir()
    (root / "coco/val2017").mkdir()
    path.rename(root / "coco/annotations/instances_val2017.json")


def test_environment_variables_are_used_in_order(no_dataset_variables, monkeypatch, tmp_path):
    for images, folder in enumerate(("datasets", "detectron2_datasets", "detrex_datasets"), 1):
        _write_named(tmp_path / folder, images)
    assert len(load_dataset("coco_2017_val")) == 1
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "detectron2_datasets"))
    assert len(load_dataset("coco_2017_val")) == 2
    monkeypatch.setenv("DETREX_DATASETS", str(tmp_path / "detrex_datasets"))
    dataset = load_dataset("coco_2017_val")
    assert len(dataset) == 3
    assert dataset.name == "coco_2017_val"
    assert dataset[0]["file_name"] == str(tmp_path / "detrex_datasets/coco/val2017/0.png")


def test_official_voc_is_one_based_with_its_twenty_classes(no_dataset_variables, tmp_path):
    root = tmp_path / "datasets/VOC2007"
    write_xml(root, "000005", [object_xml("chair", (1, 1, 60, 40))])
    (root / "annotations").rename(root / "Annotations")
    (root / "images").rename(root / "JPEGImages")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/trainval.txt").write_text("000005\n")
    dataset = load_dataset("voc_2007_trainval")
    assert (dataset.num_classes, dataset.class_names[8]) == (20, "chair")
    torch.testing.assert_close(dataset[0]["boxes"], torch.tensor([[0.0, 0, 60, 40]]))


def test_missing_data_set_raises_an_error_with_its_folder(no_dataset_variables, monkeypatch):
    with pytest.raises(DatasetError, match=r"'datasets', .*set DETREX_DATASETS"):
        load_dataset("coco_2017_train")
    monkeypatch.setenv("DETECTRON2_DATASETS", "/elsewhere")
    with pytest.raises(DatasetError, match=r"/elsewhere/VOC2012/Annotations does not exist.*from DETECTRON2_DATASETS"):
        load_dataset("voc_2012_val")
    with pytest.raises(DatasetError, match=r"no data set 'coco_2017_vall'; did you mean 'coco_2017_val'"):
        load_dataset("coco_2017_vall")


def test_registered_data_sets_are_loaded_by_name():
    loaded = []

    def loader():
        loaded.append(from_records([{"file_name": "a", "height": 1, "width": 1}], name="mine", class_names=["x"]))
        return loaded[-1]

    register_dataset("test_registered", loader)
    assert load_dataset("test_registered") is load_dataset("test_registered")
    assert len(loaded) == 1
    register_dataset("test_registered", loader)  # loading a config file again registers its data sets again
    assert load_dataset("test_registered") is loaded[1]
    with pytest.raises(DatasetError, match="built-in"):
        register_dataset("coco_2017_train", loader)


def test_subset_has_the_first_images():
    records = [
        {"file_name": f"{i}", "height": 10, "width": 10, "boxes": [[0, 0, 5, 5 + i]] * i, "classes": [0] * i}
        for i in range(4)
    ]
    dataset = from_records(records, name="mine", class_names=["x"])
    first_images = subset(dataset, 3)
    assert (len(first_images), first_images.num_boxes) == (3, 3)
    assert_same_record(first_images[2], dataset[2])
    assert first_images.objects_per_image().tolist() == [0, 1, 2]
    assert len(subset(dataset, 99)) == 4
    with pytest.raises(DatasetError, match="at least 1 image, got 0"):
        subset(dataset, 0)
