import pytest
import torch
from torchvision.transforms import v2

from detrex_lite.data import DatasetError, DetrDatasetMapper, detr_test_augmentation, from_records, read_image

from .samples import write_image

BOXES = [[6.0, 4.0, 30.0, 20.0], [40.0, 10.0, 60.0, 40.0], [0.0, 0.0, 10.0, 10.0]]


@pytest.fixture
def record(tmp_path):
    path = write_image(tmp_path / "a.png", 40, 60)
    image_and_boxes = {"file_name": str(path), "height": 40, "width": 60, "boxes": BOXES, "classes": [2, 0, 1]}
    return from_records([{**image_and_boxes, "iscrowd": [0, 0, 1]}], name="mine", class_names=["a", "b", "c"])[0]


class Crop:
    """A transform that removes the leftmost columns of an image."""

    def __init__(self, left):
        self.left = left

    def __call__(self, image, target):
        def cut(value):
            return v2.functional.crop(value, 0, self.left, 40, 60 - self.left)

        return cut(image), {**target, "boxes": cut(target["boxes"])}


def test_training_input_without_augmentation(record):
    result = DetrDatasetMapper(is_train=True)(record)
    torch.testing.assert_close(result["image"], read_image(record["file_name"]))
    assert (result["height"], result["width"], result["image_id"]) == (40, 60, 1)
    assert result["file_name"] == record["file_name"]
    instances = result["instances"]
    assert instances.image_size == (40, 60)
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor(BOXES[:2]))  # crowds are dropped
    torch.testing.assert_close(instances.gt_classes, torch.tensor([2, 0]))


def test_augmentation_moves_image_and_boxes_together(record):
    result = DetrDatasetMapper(augmentation=v2.RandomHorizontalFlip(p=1), is_train=True)(record)
    torch.testing.assert_close(result["image"], read_image(record["file_name"]).flip(-1))
    torch.testing.assert_close(result["instances"].gt_boxes.tensor, torch.tensor([[30.0, 4, 54, 20], [0, 10, 20, 40]]))
    assert type(result["image"]) is torch.Tensor
    assert type(result["instances"].gt_boxes.tensor) is torch.Tensor


def test_boxes_outside_an_augmented_image_are_dropped(record):
    instances = DetrDatasetMapper(augmentation=Crop(30), is_train=True)(record)["instances"]
    assert instances.image_size == (40, 30)
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[10.0, 10, 30, 40]]))
    torch.testing.assert_close(instances.gt_classes, torch.tensor([0]))


def test_boxes_partly_outside_an_augmented_image_are_clipped(record):
    def shift(image, target):
        return image, {**target, "boxes": target["boxes"] + 15}

    instances = DetrDatasetMapper(augmentation=shift, is_train=True)(record)["instances"]
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[21.0, 19, 45, 35], [55, 25, 60, 40]]))


def test_images_without_usable_boxes_give_empty_instances(record):
    record = {**record, "iscrowd": torch.ones(3, dtype=torch.bool)}
    for augmentation in (None, v2.RandomHorizontalFlip(p=1), detr_test_augmentation(short_edge_length=20)):
        instances = DetrDatasetMapper(augmentation=augmentation, is_train=True)(record)["instances"]
        assert instances.gt_boxes.tensor.shape == (0, 4)
        assert instances.gt_classes.shape == (0,)
        assert instances.gt_classes.dtype == torch.int64


def test_test_input_has_no_instances_and_keeps_the_original_size(record):
    augmentation = detr_test_augmentation(short_edge_length=20)
    result = DetrDatasetMapper(augmentation=augmentation, is_train=False)(record)
    assert result.keys() == {"image", "height", "width", "image_id", "file_name"}
    assert result["image"].shape == (3, 20, 30)
    assert (result["height"], result["width"]) == (40, 60)


def test_image_of_another_size_raises_an_error_with_both_sizes(record):
    mapper = DetrDatasetMapper(is_train=False)
    with pytest.raises(DatasetError, match=r"a.png: .* 40 high and 60 wide, .* 41 high and 60 wide$"):
        mapper({**record, "height": 41})
    with pytest.raises(DatasetError, match=r"exchanged"):
        mapper({**record, "height": 60, "width": 40})
    with pytest.raises(DatasetError, match=r"missing.png does not exist"):
        mapper({**record, "file_name": "missing.png"})


def test_size_is_compared_after_applying_the_exif_orientation(tmp_path, record):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = write_image(tmp_path / "turned.png", 60, 40, exif=exif)
    result = DetrDatasetMapper(is_train=True)({**record, "file_name": str(rotated)})
    assert result["image"].shape == (3, 40, 60)


def test_augmentation_that_normalises_raises_an_error(record):
    mapper = DetrDatasetMapper(augmentation=v2.ToDtype(torch.float32, scale=True), is_train=True)
    with pytest.raises(ValueError, match=r"torch.uint8 into torch.float32.*ToDtype"):
        mapper(record)
