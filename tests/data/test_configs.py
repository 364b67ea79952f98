"""The data sections of configs/common."""

from importlib import import_module

import pytest

from detrex_lite.config import ConfigError, LazyConfig, get_config, instantiate, validate
from detrex_lite.data import dataset_of, generate_shapes

from .samples import box_entry, write_coco, write_image, write_same_content_twice


def load(name, overrides):
    """The data config with a `train` section, as a leaf config has it."""
    config = get_config(f"common/data/{name}.py")
    config.train = {"output_dir": "unused", "seed": 3}
    workers = ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    return LazyConfig.apply_overrides(config, [*workers, *overrides])


def build(config):
    loaders = [instantiate(config.dataloader[part]) for part in ("train", "test")]
    return [*loaders, instantiate(config.dataloader.evaluator)]


@pytest.mark.parametrize("name", ["bccd", "coco_detr", "custom_coco", "custom_voc", "shapes"])
def test_they_are_modules_too(name):
    module = import_module(f"detrex_lite.configs.common.data.{name}")
    assert list(module.dataloader) == ["train", "test", "evaluator"]


def test_coco_by_name(tmp_path, monkeypatch):
    for split in ("train2017", "val2017"):
        path, _ = write_coco(tmp_path / "coco", annotations=[box_entry(1, 1, [0, 0, 5, 5])])
        (tmp_path / "coco/annotations").mkdir(exist_ok=True)
        path.rename(tmp_path / f"coco/annotations/instances_{split}.json")
        write_image(tmp_path / "coco" / split / "1.png")
    monkeypatch.setenv("DETREX_DATASETS", str(tmp_path))
    train, test, evaluator = build(load("coco_detr", ["dataloader.train.total_batch_size=2"]))
    assert dataset_of(train).name == "coco_2017_train"
    assert dataset_of(train) is not dataset_of(test)
    assert evaluator.dataset is dataset_of(test)
    assert train.batch_sampler.seed == 3
    (batch,) = list(test)
    assert batch[0]["image"].shape == (3, 800, 1200)
    assert "instances" in next(iter(train))[0]


def test_own_coco_files_and_voc_folders_give_the_same(tmp_path):
    write_same_content_twice(tmp_path)
    coco = [
        f"dataset.{split}_{what}={tmp_path / path}"
        for split in ("train", "val")
        for what, path in (("annotations", "instances.json"), ("images", "images"))
    ]
    voc = [
        f"dataset.annotations={tmp_path}/annotations",
        f"dataset.images={tmp_path}/images",
        f"dataset.train_split={tmp_path}/split.txt",
        f"dataset.val_split={tmp_path}/split.txt",
    ]
    from_coco, from_voc = build(load("custom_coco", coco)), build(load("custom_voc", voc))
    for left, right in zip(from_coco[:2], from_voc[:2], strict=True):
        assert dataset_of(left).boxes.tolist() == dataset_of(right).boxes.tolist()
        assert dataset_of(left).class_names == dataset_of(right).class_names == ("cat", "dog")
    names = build(load("custom_voc", [*voc, "dataset.class_names=[dog,cat]"]))
    assert dataset_of(names[0]).class_names == ("dog", "cat")


def test_shapes_are_not_resized(tmp_path):
    generate_shapes(tmp_path / "shapes", num_train=4, num_val=2, image_size=48)
    train, test, evaluator = build(load("shapes", [f"dataset.root={tmp_path / 'shapes'}"]))
    assert len(dataset_of(train)) == 4
    assert [sample["image"].shape for batch in test for sample in batch] == [(3, 48, 48)] * 2
    assert evaluator.dataset.name == "shapes_val"


@pytest.mark.parametrize(("name", "key"), [("custom_coco", "val_images"), ("custom_voc", "val_split")])
def test_paths_must_be_filled_in(name, key):
    with pytest.raises(ConfigError, match=rf"dataset.{key}: has no value yet"):
        validate(load(name, []))


def test_configs_that_build_on_another_leave_it_as_it_was():
    load("shapes", [])
    assert load("coco_detr", []).dataloader.train.dataset.name == "coco_2017_train"
