"""Layouts that are found by looking."""

import json

import pytest

from detrex_lite.config import LazyConfig, get_config, instantiate
from detrex_lite.data import DatasetError, dataset_of, find_dataset
from detrex_lite.engine import derived

from . import samples

LAYOUTS = {"Roboflow COCO": samples.roboflow, "YOLO": samples.yolo, "Pascal VOC": samples.voc, "CSV": samples.csv}


def contents(dataset):
    """Class names and boxes by file name."""
    return {
        record["file_name"].rpartition("/")[2].partition(".")[0]: [
            (dataset.class_names[k], tuple(box))
            for k, box in zip(record["classes"].tolist(), record["boxes"].tolist(), strict=True)
        ]
        for record in dataset
    }


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_same_data_in_every_layout(tmp_path, layout):
    found = find_dataset(LAYOUTS[layout](tmp_path / "animals"))
    assert (found.layout, found.class_names, found.splits) == (layout, ("cat", "dog"), ("train", "val"))
    assert found.drawn is None
    for split, stems in zip(found.splits, samples.SPLITS.values(), strict=True):
        dataset = found.load(split)
        assert contents(dataset) == {stem: samples.OBJECTS[stem] for stem in stems}
        assert dataset.category_ids == ((0, 1) if layout == "YOLO" else (1, 2)) == found.category_ids
        assert dataset.name == f"animals_{split}"
        assert found.load(split) is dataset is find_dataset(tmp_path / "animals").load(split)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_recipe_takes_a_folder(tmp_path, layout):
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


def test_what_is_not_there():
    with pytest.raises(DatasetError, match="folder nowhere does not exist"):
        find_dataset("nowhere")
