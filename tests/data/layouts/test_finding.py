"""Detection of the layout of a data set."""

import json

import pytest

from detrex_lite.config import LazyConfig, get_config, instantiate
from detrex_lite.data import DatasetError, dataset_of, find_dataset
from detrex_lite.engine import derived

from . import samples

LAYOUTS = {"Roboflow COCO": samples.roboflow, "YOLO": samples.yolo, "Pascal VOC": samples.voc, "CSV": samples.csv}


def contents(dataset):
    """A mapping of file names, without extension, to class names and boxes."""
    return {
        record["file_name"].rpartition("/")[2].partition(".")[0]: [
            (dataset.class_names[k], tuple(box))
            for k, box in zip(record["classes"].tolist(), record["boxes"].tolist(), strict=True)
        ]
        for record in dataset
    }


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_layout_gives_the_same_data(tmp_path, layout):
    dataset = find_dataset(LAYOUTS[layout](tmp_path / "animals"))
    assert (dataset.layout, dataset.class_names, dataset.splits) == (layout, ("cat", "dog"), ("train", "val"))
    assert dataset.drawn is None
    for split, stems in zip(dataset.splits, samples.SPLITS.values(), strict=True):
        split_dataset = dataset.load(split)
        assert contents(split_dataset) == {stem: samples.OBJECTS[stem] for stem in stems}
        assert split_dataset.category_ids == ((0, 1) if layout == "YOLO" else (1, 2)) == dataset.category_ids
        assert split_dataset.name == f"animals_{split}"
        assert dataset.load(split) is split_dataset is find_dataset(tmp_path / "animals").load(split)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_folder_config_builds_loaders_of_every_layout(tmp_path, layout):
    root = LAYOUTS[layout](tmp_path / "animals")
    config = get_config("common/data/folder.py")
    config.train = {"output_dir": "unused", "seed": 3}
    overrides = [f"dataset.root={root}", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    config = LazyConfig.apply_overrides(config, overrides)
    train, test = (instantiate(config.dataloader[part]) for part in ("train", "test"))
    assert (len(dataset_of(train)), len(dataset_of(test))) == (2, 2)
    assert instantiate(config.dataloader.evaluator).dataset is dataset_of(test)
    assert derived.num_classes(config) == 2
    config.pretrained = {"detector": None, "backbone": None}
    assert derived.max_epochs(config) == 600
    assert json.dumps(sorted(dataset_of(train).class_names)) == '["cat", "dog"]'


def test_a_missing_folder_raises_an_error():
    with pytest.raises(DatasetError, match="folder nowhere does not exist"):
        find_dataset("nowhere")
