"""Warnings about data sets that are wrong on purpose."""

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
    """Two images of 40x60 pixels; the first has three cats of 4x4 and the second one of 20x20, dogs are not there."""
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
    """A detector's `feature_maps`, with a finest level of stride 8, and a norm that must not learn from it."""

    def __init__(self):
        super().__init__()
        self.preprocess = ImagePreprocessor()
        self.norm = nn.BatchNorm2d(3)

    def feature_maps(self, images):
        return [self.norm(nn.functional.avg_pool2d(images, 8))]


def test_classes_without_an_object(dataset):
    [regret] = classes_without_objects(dataset)
    assert "1 of its 2 classes (dog)" in regret  # the one dog is a crowd, which training leaves out


def test_more_objects_than_queries(dataset):
    assert not list(more_objects_than_queries(dataset, 3))
    assert not list(more_objects_than_queries(dataset, None))
    [regret] = more_objects_than_queries(dataset, 2)
    assert regret.startswith("1 training images")
    assert re.search(r"1\.png has 3", regret)


def test_validation_images_in_the_training_set(dataset):
    [regret] = images_in_both(dataset, dataset)
    assert regret.startswith("2 of 2 validation images")


@pytest.mark.parametrize(("size", "share"), [(40, "75%"), (120, None), (16, "75%"), (15, "100%")])
def test_boxes_below_a_cell_of_the_finest_map(dataset, size, share):
    """Boxes are 4 and 20 pixels high and wide in images whose short edge has 40; a cell has 8 after resizing."""
    mapper = DetrDatasetMapper(augmentation=detr_test_augmentation(short_edge_length=size), is_train=False)
    loader = build_test_loader(dataset=dataset, mapper=mapper, num_workers=0)
    regrets = list(boxes_below_a_cell(dataset, Strided(), loader))
    assert len(regrets) == (share is not None)
    assert share is None or regrets[0].startswith(f"{share} of the training boxes")


def test_looking_at_the_stride_leaves_the_model_as_it_was():
    model = Strided()
    model.norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert finest_stride(model, torch.zeros(3, 64, 32, dtype=torch.uint8)) == 8
    torch.testing.assert_close(model.state_dict(), before)
    assert (model.training, model.norm.training) == (True, False)


@pytest.mark.parametrize(("lr", "warned"), [(5e-4, True), (1e-4, False)])
def test_a_rate_for_training_from_scratch(lr, warned):
    cfg = get_config("projects/detr/configs/detr_small_shapes.py")
    cfg.optimizer.lr = lr
    assert len(list(high_learning_rate(cfg))) == warned


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
