import json
import math

import pytest

from detrex_lite.config import LazyConfig, get_config
from detrex_lite.data import generate_shapes
from detrex_lite.engine.epochs import steps_of_epochs
from detrex_lite.engine.settings import complete

from .tiny import tiny_config

DINO = "projects/dino/configs/dino_r50_4scale_12ep.py"


@pytest.mark.parametrize(("epochs", "batches", "steps"), [(3, 10, 30), (0.25, 10, 3), (0.01, 10, 1), (0.1 * 3, 10, 3)])
def test_epochs_become_whole_steps(epochs, batches, steps):
    assert steps_of_epochs(epochs, batches) == steps


def load(path, *overrides):
    return LazyConfig.apply_overrides(LazyConfig.load(path), overrides)


def test_steps_of_coco_configs_are_known_without_the_data(monkeypatch):
    monkeypatch.setenv("DETREX_DATASETS", "/nowhere")
    assert load(DINO).train.max_iter == 12 * math.ceil(118287 / 16)
    assert load(DINO, "dataloader.train.total_batch_size=8").train.max_iter == 12 * math.ceil(118287 / 8)
    assert load(DINO, "train.max_epochs=1").train.max_iter == math.ceil(118287 / 16)
    assert load(DINO, "train.max_iter=7").train.max_iter == 7
    assert load(DINO, "train.max_epochs=null").train.max_iter is None
    for subset in ("dataloader.train.limit=10", "dataloader.train.filter_empty=True"):
        assert load(DINO, subset).train.max_iter is None  # counting a subset requires the data


def test_steps_of_custom_data_are_counted_from_the_annotations(tmp_path):
    root = generate_shapes(tmp_path / "shapes", num_train=10, num_val=2, image_size=32)
    cfg = get_config("common/data/custom_coco.py")
    cfg.train = get_config("common/train.py").train
    cfg.train.max_epochs = 3
    cfg.dataset.train_annotations, cfg.dataset.train_images = str(root / "annotations/train.json"), str(root / "images")
    cfg.dataloader.train.total_batch_size = 4
    assert cfg.train.max_iter == 9
    cfg.dataloader.train.limit = 4
    assert cfg.train.max_iter == 3


def test_a_coco_name_does_not_give_custom_annotations_the_length_of_coco(tmp_path):
    cfg = load(DINO)
    target = {"_target_": "detrex_lite.data.load_coco", "name": "coco_2017_train", "image_root": str(tmp_path)}
    cfg.dataloader.train.dataset = {**target, "annotations": str(tmp_path / "part.json")}
    assert cfg.train.max_iter is None
    entry = {"id": 1, "file_name": "a.png", "height": 4, "width": 4}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}
    content = {"images": [entry], "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "part.json").write_text(json.dumps(content))
    assert cfg.train.max_iter == 12


def test_max_iter_is_none_without_countable_data():
    assert load("projects/detr/configs/detr_r50_custom.py").train.max_iter is None
    cfg = tiny_config("out")
    cfg.train.max_epochs, cfg.train.max_iter = 2, get_config("common/train.py").train._get_node("max_iter")._value()
    assert cfg.train.max_iter is None  # the tiny loader does not define an epoch
    del cfg.dataloader
    assert cfg.train.max_iter is None
    cfg = load(DINO)
    cfg.train.max_epochs = "${nowhere}"
    assert cfg.train.max_iter is None


def test_completing_a_config_builds_no_loader_to_count_steps(monkeypatch):
    monkeypatch.setattr("detrex_lite.engine.epochs.build_loader", None)
    cfg = load(DINO, "dataloader.train.limit=10", "train.device=cpu")
    assert complete(cfg, sections=()).train.max_iter is None
    del cfg.train["max_iter"]
    assert complete(cfg, sections=()).train.max_iter is None
    cfg.train.max_iter = 5
    assert complete(cfg, sections=()).train.max_iter == 5
