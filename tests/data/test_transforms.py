import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from detrex_lite.data import (
    RandomSizeCrop,
    ResizeShortestEdge,
    detr_test_augmentation,
    detr_train_augmentation,
    lsj_train_augmentation,
    shortest_edge_size,
)


def sample(height, width, boxes=((10.0, 20.0, 30.0, 60.0),)):
    """An image of noise and its target."""
    image = tv_tensors.Image(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    wrapped = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
    return image, {"boxes": wrapped, "labels": torch.arange(len(boxes))}


@pytest.mark.parametrize(
    ("height", "width", "short_edge", "max_size", "expected"),
    [
        (480, 640, 800, 1333, (800, 1066)),  # 1066.67 is truncated, not rounded to 1067
        (640, 480, 800, 1333, (1066, 800)),
        (427, 640, 800, 1333, (800, 1199)),
        (375, 500, 800, 1333, (800, 1066)),
        (333, 500, 480, 1333, (480, 720)),
        (480, 1000, 800, 1333, (640, 1333)),  # bounded by max_size: 639.84 is rounded
        (200, 1000, 800, 1333, (267, 1335)),  # the long edge may exceed max_size by rounding
        (800, 900, 800, 1333, (800, 900)),
        (800, 800, 480, None, (480, 480)),
        (10, 100000, 800, 1333, (1, 10000)),
    ],
)
def test_size_agrees_with_the_published_code(height, width, short_edge, max_size, expected):
    assert shortest_edge_size(height, width, short_edge, max_size) == expected


def test_resize_scales_image_and_boxes():
    image, target = sample(50, 100)
    image, target = ResizeShortestEdge(25)(image, target)
    assert image.shape == (3, 25, 50)
    assert target["boxes"].canvas_size == (25, 50)
    torch.testing.assert_close(target["boxes"].data, torch.tensor([[5.0, 10, 15, 30]]))


def test_resize_draws_every_length():
    resize = ResizeShortestEdge([20, 30, 40])
    torch.manual_seed(0)
    assert {resize(sample(50, 100)[0]).shape[-2] for _ in range(50)} == {20, 30, 40}


def test_resize_with_invalid_lengths_raises_an_error():
    with pytest.raises(ValueError, match=r"at least 1 pixel, got \[\]"):
        ResizeShortestEdge([])
    with pytest.raises(ValueError, match=r"at least 1 pixel, got \[0\]"):
        ResizeShortestEdge(0)
    with pytest.raises(ValueError, match="max_size 700 is below .* 800"):
        ResizeShortestEdge([480, 800], 700)


def test_crop_sizes_are_drawn_from_the_range_and_boxes_follow_the_pixels():
    torch.manual_seed(0)
    crop = RandomSizeCrop(40, 60)
    sizes = set()
    for _ in range(100):
        image, target = sample(100, 50, [(10, 20, 30, 60)])
        image.zero_()
        image[:, 20:60, 10:30] = 1
        image, target = crop(image, target)
        sizes.add(tuple(image.shape[-2:]))
        marked = image[0].nonzero()
        if len(marked):
            visible_box = torch.cat([marked.min(0).values.flip(0), marked.max(0).values.flip(0) + 1]).float()
            torch.testing.assert_close(target["boxes"].data[0], visible_box)
    heights, widths = zip(*sizes, strict=True)
    assert (min(heights), max(heights)) == (40, 60)
    assert (min(widths), max(widths)) == (40, 50)  # the image is only 50 pixels wide


def test_a_small_image_is_not_cropped():
    image, target = sample(30, 20, [(1, 2, 3, 4)])
    cropped, cropped_target = RandomSizeCrop(384, 600)(image, target)
    torch.testing.assert_close(cropped, image)
    torch.testing.assert_close(cropped_target["boxes"].data, target["boxes"].data)
    with pytest.raises(ValueError, match="min_size <= max_size, got 60 and 40"):
        RandomSizeCrop(60, 40)


def test_train_augmentation_has_the_published_sizes():
    torch.manual_seed(0)
    augmentation = detr_train_augmentation()
    shapes = [tuple(augmentation(*sample(480, 640))[0].shape[-2:]) for _ in range(40)]
    assert {min(shape) for shape in shapes} <= set(range(480, 801, 32))
    assert max(max(shape) for shape in shapes) <= 1333
    ratios = {round(width / height, 1) for height, width in shapes}
    assert 1.3 in ratios  # images without crop
    assert len(ratios) > 3  # crops have other ratios


def test_train_augmentation_without_crops_keeps_the_shape():
    torch.manual_seed(0)
    augmentation = detr_train_augmentation(short_edge_lengths=[60], max_size=None, crop_probability=0)
    assert all(augmentation(*sample(30, 40))[0].shape == (3, 60, 80) for _ in range(20))
    always = detr_train_augmentation(
        short_edge_lengths=[60], crop_probability=1, short_edges_before_crop=[30], crop_range=(10, 20)
    )
    assert len({always(*sample(30, 40))[0].shape for _ in range(20)}) > 5


def test_flip_probability_of_0_and_1():
    image, target = sample(60, 60, [(10, 20, 30, 60)])
    fixed_settings = {"short_edge_lengths": [60], "crop_probability": 0}
    unflipped = detr_train_augmentation(flip_probability=0, **fixed_settings)(image, target)
    torch.testing.assert_close(unflipped[0], image)
    flipped = detr_train_augmentation(flip_probability=1, **fixed_settings)(image, target)
    torch.testing.assert_close(flipped[0], image.flip(-1))
    torch.testing.assert_close(flipped[1]["boxes"].data, torch.tensor([[30.0, 20, 50, 60]]))


def test_colours_change_only_with_a_distortion():
    settings = {"short_edge_lengths": [60], "max_size": None, "crop_probability": 0, "flip_probability": 0}
    image, target = sample(60, 80)
    torch.manual_seed(0)
    unchanged, _ = detr_train_augmentation(**settings)(image, target)
    distorted, distorted_target = detr_train_augmentation(**settings, distort_probability=1.0)(image, target)
    assert torch.equal(unchanged, image)
    assert distorted.shape == image.shape
    assert (distorted != image).float().mean() > 0.5
    assert torch.equal(distorted_target["boxes"], target["boxes"])
    with pytest.raises(ValueError, match="1.5"):
        detr_train_augmentation(distort_probability=1.5)


def test_test_augmentation_accepts_an_image_without_a_target():
    image, target = sample(480, 640)
    augmented, _ = detr_test_augmentation()(image, target)
    assert augmented.shape == (3, 800, 1066)
    torch.testing.assert_close(detr_test_augmentation()(image), augmented)


def test_train_augmentation_composes_with_transforms_of_torchvision():
    torch.manual_seed(0)
    augmentation = v2.Compose(
        [
            v2.RandomPhotometricDistort(p=1),
            detr_train_augmentation(short_edge_lengths=[64], crop_range=(20, 40), short_edges_before_crop=[50]),
            v2.RandomZoomOut(p=1),
            v2.RandomIoUCrop(),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    for _ in range(10):
        image, target = augmentation(*sample(60, 60, [(10, 20, 30, 60), (5, 5, 55, 55)]))
        assert image.dtype == torch.uint8
        assert len(target["boxes"]) == len(target["labels"])


def test_large_scale_jittering_crops_to_the_square():
    torch.manual_seed(0)
    augmentation = lsj_train_augmentation(image_size=64, scale_range=[0.25, 2])
    shapes = {tuple(augmentation(*sample(40, 80))[0].shape[-2:]) for _ in range(60)}
    assert max(max(shape) for shape in shapes) == 64
    assert min(width for _, width in shapes) < 32  # the minimum scale is a quarter of 64
    uncropped = [(height, width) for height, width in shapes if width < 64]
    assert uncropped
    assert all(abs(2 * height - width) <= 2 for height, width in uncropped)
    unscaled = lsj_train_augmentation(image_size=80, scale_range=[1, 1], flip_probability=0)
    image, target = sample(40, 80, [(10, 20, 30, 40)])
    unchanged, unchanged_target = unscaled(image, target)
    torch.testing.assert_close(unchanged, image)
    torch.testing.assert_close(unchanged_target["boxes"].data, target["boxes"].data)
