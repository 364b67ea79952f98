"""The data sections of configs/common."""

from importlib import import_module

import pytest
import torch

from detrex_lite.config import ConfigError, LazyConfig, get_config, instantiate, validate
from detrex_lite.data import dataset_of, generate_shapes
from detrex_lite.structures import masks_to_boxes

from .samples import box_entry, image_entry, write_coco, write_image, write_same_content_twice


def load(name, overrides):
    """A data config with the `train` section that a complete config has."""
    config = get_config(f"common/data/{name}.py")
    config.train = {"output_dir": "unused", "seed": 3}
    workers = ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    return LazyConfig.apply_overrides(config, [*workers, *overrides])


def build(config):
    loaders = [instantiate(config.dataloader[part]) for part in ("train", "test")]
    return [*loaders, instantiate(config.dataloader.evaluator)]


@pytest.mark.parametrize(
    "name", ["bccd", "coco_detr", "coco_instance", "coco_panoptic", "custom_coco", "custom_voc", "folder", "shapes"]
)
def test_data_configs_are_importable_modules(name):
    module = import_module(f"detrex_lite.configs.common.data.{name}")
    assert list(module.dataloader) == ["train", "test", "evaluator"]


def test_coco_config_loads_data_sets_by_name(tmp_path, monkeypatch):
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


def test_custom_coco_and_voc_configs_give_the_same_data(tmp_path):
    write_same_content_twice(tmp_path)
    coco = [
        f"dataset.{split}_{kind}={tmp_path / path}"
        for split in ("train", "val")
        for kind, path in (("annotations", "instances.json"), ("images", "images"))
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
def test_missing_paths_raise_an_error(name, key):
    with pytest.raises(ConfigError, match=rf"dataset.{key}: has no value yet"):
        validate(load(name, []))


def test_configs_do_not_change_their_base_config():
    load("shapes", [])
    assert load("coco_detr", []).dataloader.train.dataset.name == "coco_2017_train"


def coco_folder(folder, images=6):
    """Write six images with an object each as the training and validation sets of COCO."""
    names = range(1, images + 1)
    for split in ("train2017", "val2017"):
        entries = [image_entry(number) for number in names]
        boxes = [box_entry(number, number, [10, 10, 30, 20]) for number in names]
        path, _ = write_coco(folder / "coco", entries, boxes)
        (folder / "coco/annotations").mkdir(exist_ok=True)
        path.rename(folder / f"coco/annotations/instances_{split}.json")
        for number in names:
            write_image(folder / "coco" / split / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", ["coco_realtime", "coco_realtime_mosaic", "coco_square"])
def test_coco_configs_of_real_time_detectors_give_one_size_per_batch(tmp_path, monkeypatch, name):
    monkeypatch.setenv("DETREX_DATASETS", str(coco_folder(tmp_path)))
    config = load(name, ["dataloader.train.total_batch_size=4", "dataloader.image_size=128"])
    if name == "coco_square":
        config.dataloader.train.mapper.augmentation.sides = [64, 96]
    validate(config)
    train, test, _ = build(config)
    assert train.batch_sampler.groups.tolist() == [0] * 6
    assert next(iter(test))[0]["image"].shape == (3, 128, 128)
    sizes = [{tuple(sample["image"].shape) for sample in batch} for batch, _ in zip(train, range(12), strict=False)]
    if name == "coco_square":
        assert set.union(*sizes) == {(3, 64, 64), (3, 96, 96)}
    else:
        assert {len(shapes) for shapes in sizes} == {1}
        assert set.union(*sizes) <= {(3, side, side) for side in (96, 128, 160)}
        assert len(set.union(*sizes)) > 1


def test_epochs_of_augmentation_are_set_by_two_keys():
    overrides = ["dataloader.strong_epochs=[4,120]", "dataloader.mosaic_epochs=[4,64]"]
    train = load("coco_realtime_mosaic", overrides).dataloader.train
    augmentation = instantiate(train.mapper.augmentation)
    strong = [augmentation.photometric_distort, augmentation.zoom_out, augmentation.iou_crop]
    assert [transform.epochs for transform in strong] == [(4, 120)] * 3
    assert [transform.probability for transform in strong] == [1.0, 1.0, 0.8]
    assert augmentation.mosaic.epochs == instantiate(train.mixup).epochs == (4, 64)
    multi_scale = instantiate(train.multi_scale)
    assert multi_scale.epochs == (0, 120)
    assert (min(multi_scale.sizes), multi_scale.sizes.count(640), max(multi_scale.sizes)) == (480, 3, 800)
    always = instantiate(load("coco_realtime", []).dataloader.train.multi_scale)
    assert always.epochs == (0, None)


def test_custom_coco_config_with_real_time_augmentation(tmp_path):
    write_same_content_twice(tmp_path)
    files = [
        f"dataset.{split}_{kind}={tmp_path / path}"
        for split in ("train", "val")
        for kind, path in (("annotations", "instances.json"), ("images", "images"))
    ]
    train, test, _ = build(load("custom_coco_realtime", [*files, "dataloader.train.total_batch_size=2"]))
    assert len(dataset_of(train)) == len(dataset_of(test)) == 4
    batch = next(iter(train))
    assert len({sample["image"].shape for sample in batch}) == 1


@pytest.mark.parametrize(("name", "classes"), [("shapes_masks", 3), ("shapes_panoptic", 4)])
def test_shapes_configs_with_masks(tmp_path, name, classes):
    generate_shapes(tmp_path / "shapes", num_train=8, num_val=2, image_size=32)
    overrides = [f"dataset.root={tmp_path / 'shapes'}", "dataloader.train.total_batch_size=4"]
    train, test, _ = build(load(name, overrides))
    instances = next(iter(train))[0]["instances"]
    assert instances.gt_masks.shape == (len(instances), 32, 32)
    assert dataset_of(train).num_classes == classes
    assert dataset_of(test).segmentations is not None


def test_custom_coco_config_with_masks_and_large_scale_jittering(tmp_path):
    square = [[5, 6, 25, 6, 25, 30, 5, 30]]
    entries = [box_entry(1, 1, [0, 0, 50, 35], segmentation=square)]
    path, images = write_coco(tmp_path, [image_entry(1), image_entry(2)], entries)
    write_image(images / "1.png")
    overrides = [
        f"dataset.{split}_{kind}={value}"
        for split in ("train", "val")
        for kind, value in (("annotations", path), ("images", images))
    ]
    train, test, _ = build(load("custom_coco_masks", [*overrides, "dataloader.train.total_batch_size=1"]))
    assert next(iter(train))[0]["instances"].has("gt_masks")
    assert dataset_of(test).segmentations is not None
    config = load("coco_instance_lsj", ["dataloader.image_size=64", "dataloader.train.total_batch_size=1"])
    custom_config = load("custom_coco_masks", overrides)
    config.dataset, config.dataloader.train.dataset = custom_config.dataset, custom_config.dataloader.train.dataset
    config.dataloader.train.mapper.augmentation.scale_range = [0.5, 0.9]
    sample = next(iter(instantiate(config.dataloader.train)))[0]  # image 2 has no objects and is not used
    assert sample["file_name"].endswith("1.png")
    assert sample["image"].shape == (3, 64, 64)
    assert (sample["image"][:, 60:] == 128).all()
    instances = sample["instances"]
    torch.testing.assert_close(masks_to_boxes(instances.gt_masks), instances.gt_boxes.tensor)
    width, height = (instances.gt_boxes.tensor[0, 2:] - instances.gt_boxes.tensor[0, :2]).tolist()
    assert width < 0.5 * 0.9 * 64  # the mask covers a third of the image's width, the annotated box 5/6
    assert height < 0.9 * 64
