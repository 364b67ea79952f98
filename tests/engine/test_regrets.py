"""Tests warnings about data sets and settings that are probably mistakes."""

import logging
import re

import pytest
import torch
from torch import nn

from detrex_lite.config import LazyConfig, get_config
from detrex_lite.data import DetrDatasetMapper, build_test_loader, detr_test_augmentation, generate_shapes, load_coco
from detrex_lite.engine import train
from detrex_lite.engine.regrets import (
    boxes_below_a_cell,
    classes_without_objects,
    finest_stride,
    high_learning_rate,
    images_in_both,
    more_objects_than_queries,
)
from detrex_lite.modeling import ImagePreprocessor
from tests.data.samples import box_entry, image_entry, write_coco, write_image

from .tiny import tiny_config


@pytest.fixture
def dataset(tmp_path):
    """Two images of 40x60 pixels: three cats of 4x4 in the first, a cat of 20x20 in the second, and no single dog."""
    path, images = write_coco(
        tmp_path,
        [image_entry(1), image_entry(2)],
        [
            *(box_entry(number, 1, [10 * number, 5, 4, 4]) for number in (1, 2, 3)),
            box_entry(4, 2, [10, 10, 20, 20]),
            box_entry(5, 2, [1, 1, 30, 30], category_id=7, iscrowd=1),
        ],
    )
    for number in (1, 2):
        write_image(images / f"{number}.png")
    return load_coco(path, images)


class Strided(nn.Module):
    """Has the `feature_maps` of a detector, with stride 8, and a norm whose statistics must not change."""

    def __init__(self):
        super().__init__()
        self.preprocess = ImagePreprocessor()
        self.norm = nn.BatchNorm2d(3)

    def feature_maps(self, images):
        return [self.norm(nn.functional.avg_pool2d(images, 8))]


def test_classes_without_objects_are_named(dataset):
    [warning] = classes_without_objects(dataset)
    assert "1 of its 2 classes (dog)" in warning  # the only dog is a crowd, which training leaves out


def test_images_with_more_objects_than_queries_are_named(dataset):
    assert not list(more_objects_than_queries(dataset, 3))
    assert not list(more_objects_than_queries(dataset, None))
    [warning] = more_objects_than_queries(dataset, 2)
    assert warning.startswith("1 training images")
    assert re.search(r"1\.png has 3", warning)


def test_validation_images_in_the_training_set_are_counted(dataset):
    [warning] = images_in_both(dataset, dataset)
    assert warning.startswith("2 of 2 validation images")


@pytest.mark.parametrize(("size", "percentage"), [(40, "75%"), (120, None), (16, "75%"), (15, "100%")])
def test_the_percentage_of_boxes_below_a_cell_of_the_finest_map_is_reported(dataset, size, percentage):
    """Boxes have sides of 4 and 20 pixels in images with a short edge of 40; a cell has 8 pixels after resizing."""
    mapper = DetrDatasetMapper(augmentation=detr_test_augmentation(short_edge_length=size), is_train=False)
    loader = build_test_loader(dataset=dataset, mapper=mapper, num_workers=0)
    warnings = list(boxes_below_a_cell(dataset, Strided(), loader))
    assert len(warnings) == (percentage is not None)
    assert percentage is None or warnings[0].startswith(f"{percentage} of the training boxes")


def test_finest_stride_does_not_change_the_model():
    model = Strided()
    model.norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert finest_stride(model, torch.zeros(3, 64, 32, dtype=torch.uint8)) == 8
    torch.testing.assert_close(model.state_dict(), before)
    assert (model.training, model.norm.training) == (True, False)


@pytest.mark.parametrize(("lr", "is_reported"), [(5e-4, True), (1e-4, False)])
def test_a_learning_rate_too_high_for_fine_tuning_is_reported(lr, is_reported):
    cfg = get_config("projects/detr/configs/detr_small_shapes.py")
    cfg.optimizer.lr = lr
    assert len(list(high_learning_rate(cfg))) == is_reported


def test_a_run_warns_before_its_first_step(tmp_path, caplog):
    shapes = generate_shapes(tmp_path / "shapes", num_train=6, num_val=2, image_size=32)
    data = get_config("common/data/shapes.py")
    cfg = tiny_config(tmp_path / "run", "train.max_iter=1")
    cfg.dataset, cfg.dataloader = data.dataset, data.dataloader
    cfg = LazyConfig.apply_overrides(
        cfg,
        [
            f"dataset.root={shapes}",
            "dataloader.train.total_batch_size=2",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
            "dataloader.test.dataset.split=train",
        ],
    )
    with caplog.at_level(logging.INFO, "detrex_lite"):
        train(cfg)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "6 of 6 validation images are in the training set" in log
    assert log.index("validation images are in") < log.index("iteration 1/1")
    assert re.search(r"weights +from scratch", log)
    train(cfg, resume=True)
    assert (tmp_path / "run" / "log.txt").read_text().count("validation images are in") == 1
