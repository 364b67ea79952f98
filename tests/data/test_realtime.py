"""After any augmentation, each coloured rectangle is at the position of its box."""

from itertools import count

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from detrex_lite.data import (
    InEpochs,
    Mosaic,
    RandomIoUCrop,
    RandomPhotometricDistort,
    RealtimeAugmentation,
    realtime_test_augmentation,
    square_train_augmentation,
)
from detrex_lite.data.photometric import adjust_hue
from detrex_lite.data.realtime import _box_around_visible

COLOURS = torch.tensor(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]], dtype=torch.uint8
)
BOXES = [(20, 30, 70, 90), (90, 10, 150, 60), (80, 80, 180, 130), (200, 40, 230, 140)]


def scene(height=160, width=240, boxes=BOXES, first=0):
    """A grey image with a rectangle for each box; the label of a box is the index of its colour."""
    image = torch.full((3, height, width), 110, dtype=torch.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        image[:, y0:y1, x0:x1] = COLOURS[first + number][:, None, None]
    wrapped = tv_tensors.BoundingBoxes(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
    )
    return tv_tensors.Image(image), {"boxes": wrapped, "labels": first + torch.arange(len(boxes))}


def visible_box(image, label, tolerance=80):
    """The box around the pixels of a colour; None when no pixel has this colour."""
    is_near = (image.float() - COLOURS[label].float()[:, None, None]).abs().amax(0) < tolerance
    y, x = is_near.nonzero(as_tuple=True)
    return torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float() if len(x) else None


def assert_boxes_agree_with_colours(image, target, within=1.0, thinnest=2.0):
    """Ignores boxes thinner than `thinnest`, which may be lost between the sampled pixels."""
    assert target["boxes"].canvas_size == tuple(image.shape[-2:])
    for box, label in zip(target["boxes"].as_subclass(torch.Tensor), target["labels"].tolist(), strict=True):
        if (box[2:] - box[:2]).min() >= thinnest:
            visible = visible_box(image, label)
            assert visible is not None, (label, box)
            torch.testing.assert_close(visible, box, rtol=0, atol=within)


def test_boxes_are_exact_after_zooming_out_and_cropping():
    torch.manual_seed(0)
    augmentation = v2.Compose(
        [v2.RandomZoomOut(fill=0, side_range=(1, 2), p=0.5), RandomIoUCrop(), v2.SanitizeBoundingBoxes()]
    )
    object_counts = set()
    for _ in range(60):
        image, target = augmentation(*scene())
        assert_boxes_agree_with_colours(image, target, within=0)
        object_counts.add(len(target["labels"]))
        # Rectangles that are completely visible are still objects.
        fully_visible = {
            label for label in range(4) if (box := visible_box(image, label, 1)) is not None and _is_whole(box, label)
        }
        assert fully_visible <= set(target["labels"].tolist())
    assert len(object_counts) > 2


def _is_whole(box, label):
    x0, y0, x1, y1 = BOXES[label]
    return (box[2:] - box[:2]).tolist() == [x1 - x0, y1 - y0]


def test_an_image_without_objects_is_not_cropped():
    image, target = scene(boxes=[])
    cropped, cropped_target = RandomIoUCrop()(image, target)
    assert cropped is image
    assert cropped_target is target


def test_iou_crops_have_the_same_distribution_as_in_torchvision():
    """Sizes of crops, numbers of objects and the fraction of uncropped images have the same means."""
    means = []
    for crop in (RandomIoUCrop(), v2.RandomIoUCrop()):
        torch.manual_seed(0)
        statistics = []
        for _ in range(500):
            image, target = v2.SanitizeBoundingBoxes()(*crop(*scene()))
            height, width = image.shape[-2:]
            statistics.append(
                [
                    height / 160,
                    width / 240,
                    height * width / 38400,
                    len(target["labels"]),
                    (height, width) == (160, 240),
                ]
            )
        means.append(torch.tensor(statistics, dtype=torch.float32))
    deviation = torch.cat(means).std(0) * (2 / 500) ** 0.5
    assert ((means[0].mean(0) - means[1].mean(0)).abs() < 4 * deviation).all()


def test_an_iou_crop_has_the_required_overlap_with_an_object():
    torch.manual_seed(0)
    crop = RandomIoUCrop(overlaps=[0.5, 1.0], aspect_ratio=(0.8, 1.25))
    cropped = 0
    for _ in range(40):
        image, target = crop(*scene(160, 240, [(40, 20, 180, 140), (200, 10, 215, 25)]))
        height, width = image.shape[-2:]
        if (height, width) == (160, 240):
            continue
        cropped += 1
        assert 0.8 <= width / height <= 1.25
        intersection_fraction = (target["boxes"][0, 2:] - target["boxes"][0, :2]).prod() / (height * width + 140 * 120)
        assert intersection_fraction >= 1 / 3  # IoU 0.5: the intersection is 1/3 of the summed areas
    assert cropped > 10


def test_masks_are_cropped_with_their_boxes():
    torch.manual_seed(0)
    crop = RandomIoUCrop(overlaps=[0.1, 1.0])
    for _ in range(10):
        image, target = scene()
        masks = torch.stack([(image == COLOURS[k][:, None, None]).all(0) for k in target["labels"]])
        image, target = crop(image, {**target, "masks": tv_tensors.Mask(masks), "epoch": 3})
        for label, mask in zip(target["labels"].tolist(), target["masks"], strict=True):
            assert torch.equal(mask.as_subclass(torch.Tensor), (image == COLOURS[label][:, None, None]).all(0))
        assert target["epoch"] == 3


def draw_scenes():
    """A function that returns images of different sizes with one object each."""
    numbers = count(1)

    def draw():
        number = next(numbers)
        return scene(100 + 20 * number, 220 - 20 * number, [(30, 20, 90, 70)], first=number)

    return draw


@pytest.mark.parametrize("degrees", [0.0, 10.0, 170.0])
def test_boxes_of_a_mosaic_agree_with_colours(degrees):
    torch.manual_seed(1)
    seen_labels = set()
    for _ in range(25):
        image, target = scene(boxes=[(40, 50, 120, 110)])
        mosaic = Mosaic(size=160, degrees=degrees)
        image, target = mosaic(image, {**target, "draw": draw_scenes(), "epoch": 0})
        # The tolerance is half a pixel for the resize, one for the nearest pixel, and more for rotated corners.
        assert_boxes_agree_with_colours(image, target, within=2.0 if degrees else 1.5)
        assert target["labels"].tolist() == [0, 1, 2, 3]
        seen_labels |= {label for label in range(4) if visible_box(image, label) is not None}
        assert image.dtype == torch.uint8
    assert seen_labels == {0, 1, 2, 3}


def test_a_mosaic_without_affine_transform_is_the_grid_of_its_images():
    mosaic = Mosaic(size=160, degrees=0, translate=0, scale=(1, 1))
    other_scenes = [
        scene(160, 200, [(0, 0, 50, 50)], first=1),
        scene(160, 180, [], first=2),
        scene(200, 160, [], first=3),
    ]
    draws = iter(other_scenes)
    image, target = scene(boxes=BOXES[:1])
    image, target = mosaic(image, {**target, "draw": lambda: next(draws)})
    assert image.shape == (3, 400, 480)  # the maximum height is 200, the maximum width 240
    plain = image.as_subclass(torch.Tensor)
    torch.testing.assert_close(plain[:, :160, :240], scene(boxes=BOXES[:1])[0].as_subclass(torch.Tensor))
    torch.testing.assert_close(plain[:, :160, 240:440], other_scenes[0][0].as_subclass(torch.Tensor))
    torch.testing.assert_close(plain[:, 200:360, :180], other_scenes[1][0].as_subclass(torch.Tensor))
    torch.testing.assert_close(plain[:, 200:, 240:400], other_scenes[2][0].as_subclass(torch.Tensor))
    assert not plain[:, 160:200].any()
    expected = torch.tensor([[20.0, 30, 70, 90], [240, 0, 290, 50]])
    torch.testing.assert_close(target["boxes"].as_subclass(torch.Tensor), expected)
    assert target["labels"].tolist() == [0, 1]


def test_masks_of_a_mosaic_agree_with_its_image():
    torch.manual_seed(2)

    def add_masks(image, target):
        masks = torch.stack([(image == COLOURS[k][:, None, None]).all(0) for k in target["labels"]])
        return image, {**target, "masks": tv_tensors.Mask(masks.to(torch.uint8))}

    for _ in range(3):
        image, target = add_masks(*scene(boxes=[(40, 50, 120, 110)]))
        # The mosaic has the size of its cells, so that no resize blends pixels.
        mosaic = Mosaic(size=160, degrees=15)
        image, target = mosaic(image, {**target, "draw": lambda: add_masks(*scene(boxes=[(40, 50, 120, 110)]))})
        colours = (image.as_subclass(torch.Tensor) == COLOURS[0][:, None, None]).all(0)
        union = target["masks"].as_subclass(torch.Tensor).bool().any(0)
        # The affine transforms of Pillow and torch round positions of edge pixels differently.
        assert (union != colours).float().mean() < 0.004


def test_objects_rotated_out_of_the_image_have_empty_boxes():
    assert _box_around_visible(torch.tensor([[-5.0, 0], [-1, 0], [-1, 9], [-5, 9]]), (10, 10)).tolist() == [0] * 4


def test_box_of_a_rotated_square_encloses_its_visible_part():
    """The left border of the image cuts off half of a square that stands on its corner."""
    polygon = torch.tensor([[0.0, -4], [4, 0], [0, 4], [-4, 0]]) + torch.tensor([0.0, 10])
    assert _box_around_visible(polygon, (20, 20)).tolist() == [0, 6, 4, 14]
    shifted = polygon + torch.tensor([-2.0, 0])
    # The visible part ends where the edges of the square cross the border of the image.
    assert _box_around_visible(shifted, (20, 20)).tolist() == [0, 8, 2, 12]
    assert _box_around_visible(polygon + 30, (20, 20)).tolist() == [0, 0, 0, 0]
    enclosing = torch.tensor([[-50.0, -50], [50, -50], [50, 50], [-50, 50]])
    assert _box_around_visible(enclosing, (20, 30)).tolist() == [0, 0, 30, 20]


@pytest.mark.parametrize("shift", [-0.5, -0.05, 0.0, 0.03, 0.25, 0.5])
def test_hue_agrees_with_torchvision(shift):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 200, 150), generator=generator, dtype=torch.uint8)
    image[:, :4] = image[:1, :4]  # grey
    image[:, 4] = 0
    actual = adjust_hue(tv_tensors.Image(image), shift)
    assert isinstance(actual, tv_tensors.Image)
    expected = v2.functional.adjust_hue(image, shift)
    assert (actual.int() - expected.int()).abs().max() <= 1


def test_photometric_distortion_draws_each_operation(monkeypatch):
    """With p=0 the image does not change; with p=1 each operation is applied with its own values."""
    image, target = scene()
    unchanged, unchanged_target = RandomPhotometricDistort(p=0)(image, target)
    torch.testing.assert_close(unchanged, image)
    assert unchanged_target is target
    torch.manual_seed(0)
    calls = []
    for name in ("adjust_brightness", "adjust_contrast", "adjust_saturation", "permute_channels"):
        function = getattr(v2.functional, name)
        monkeypatch.setattr(
            v2.functional, name, lambda x, value, f=function, n=name: calls.append((n, value)) or f(x, value)
        )
    for _ in range(20):
        distorted, _ = RandomPhotometricDistort(p=1)(image, target)
        assert distorted.dtype == torch.uint8
    values = {name: [value for call_name, value in calls if call_name == name] for name, _ in calls}
    assert {len(drawn) for drawn in values.values()} == {20}
    assert all(0.875 <= value <= 1.125 for value in values["adjust_brightness"])
    assert min(values["adjust_contrast"]) < 0.9 < 1.1 < max(values["adjust_contrast"])
    assert len({tuple(order) for order in values["permute_channels"]}) > 3
    places = [number % 4 for number, (name, _) in enumerate(calls) if name == "adjust_contrast"]
    assert set(places) == {1, 2}  # before the saturation, or after it and the hue


def strong_augmentation(**replacements):
    parts = {
        "mosaic": InEpochs(Mosaic(size=100), probability=0.5, epochs=[2, 4]),
        "photometric_distort": InEpochs(RandomPhotometricDistort(), epochs=[2, 6]),
        "zoom_out": InEpochs(v2.RandomZoomOut(fill=0, p=1.0), epochs=[2, 6]),
        "iou_crop": InEpochs(RandomIoUCrop(), epochs=[2, 6], probability=0.8),
    }
    return RealtimeAugmentation(size=(96, 128), **{**parts, **replacements})


class RecordingTransform(torch.nn.Module):
    """Records its name, and returns the image unchanged."""

    def __init__(self, name, notes):
        super().__init__()
        self.name, self.notes = name, notes

    def forward(self, image, target):
        self.notes.append(self.name)
        return image, target


def applied_operations(epoch, images=200):
    """The names of the operations that were applied to each of many images of an epoch."""
    notes = []
    operations = {
        name: RecordingTransform(name, notes) for name in ("mosaic", "photometric_distort", "zoom_out", "iou_crop")
    }
    augmentation = strong_augmentation(
        mosaic=InEpochs(operations["mosaic"], probability=0.5, epochs=[4, 64]),
        photometric_distort=InEpochs(operations["photometric_distort"], epochs=[4, 120]),
        zoom_out=InEpochs(operations["zoom_out"], epochs=[4, 120]),
        iou_crop=InEpochs(operations["iou_crop"], epochs=[4, 120], probability=0.8),
    )
    operations_of_images = []
    for _ in range(images):
        notes.clear()
        image, _ = augmentation(scene()[0], {**scene()[1], "epoch": epoch})
        assert image.shape == (3, 96, 128)
        operations_of_images.append(tuple(notes))
    return operations_of_images


def test_operations_are_limited_to_their_epochs_and_a_mosaic_excludes_zooming_and_cropping():
    torch.manual_seed(0)
    for epoch in (0, 3, 120, 131):
        assert set(applied_operations(epoch, 20)) == {()}
    for epoch in (4, 63):
        operations_of_images = applied_operations(epoch)
        expected = {
            ("mosaic", "photometric_distort"),
            ("photometric_distort", "zoom_out"),
            ("photometric_distort", "zoom_out", "iou_crop"),
        }
        assert set(operations_of_images) == expected
        assert 70 < operations_of_images.count(("mosaic", "photometric_distort")) < 130
    for epoch in (64, 119):
        operations_of_images = applied_operations(epoch)
        assert set(operations_of_images) == {
            ("photometric_distort", "zoom_out"),
            ("photometric_distort", "zoom_out", "iou_crop"),
        }
        assert 135 < operations_of_images.count(("photometric_distort", "zoom_out", "iou_crop")) < 185


def test_realtime_augmentation_gives_one_size_and_boxes_of_at_least_a_pixel():
    torch.manual_seed(3)
    without_colours = strong_augmentation(photometric_distort=None)
    for epoch in (0, 2, 3, 5, 6):
        for _ in range(15):
            image, target = scene(320, 480, [tuple(2 * side for side in box) for box in BOXES])
            image, target = without_colours(image, {**target, "epoch": epoch, "draw": draw_scenes()})
            assert image.shape == (3, 96, 128)
            sides = target["boxes"].as_subclass(torch.Tensor)
            assert len(sides) == len(target["labels"])
            assert (sides[:, 2:] - sides[:, :2] >= 1).all()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_are_resized_without_keeping_the_aspect_ratio(flip):
    image, target = RealtimeAugmentation(size=(320, 240), flip_probability=flip)(*scene())
    assert image.shape == (3, 320, 240)
    assert_boxes_agree_with_colours(image, target)
    assert target["labels"].tolist() == [0, 1, 2, 3]


def test_tiny_boxes_are_dropped():
    _, target = RealtimeAugmentation(size=80, flip_probability=0)(*scene(boxes=[(0, 0, 1, 90), (5, 5, 60, 60)]))
    assert target["labels"].tolist() == [1]  # the first box is resized to a third of a pixel


def test_test_augmentation_only_resizes():
    assert realtime_test_augmentation(size=64)(scene()[0]).shape == (3, 64, 64)
    assert realtime_test_augmentation(size=[64, 96])(scene()[0]).shape == (3, 64, 96)


def test_square_augmentation_draws_every_side():
    torch.manual_seed(0)
    augmentation = square_train_augmentation(sides=[64, 128], short_edges_before_crop=[100], crop_range=(50, 90))
    shapes = set()
    for _ in range(30):
        image, target = augmentation(*scene())
        shapes.add(tuple(image.shape))
        target = v2.SanitizeBoundingBoxes(min_size=4)(target)
        assert_boxes_agree_with_colours(image, target, within=1.5, thinnest=6)
    assert shapes == {(3, 64, 64), (3, 128, 128)}


def test_a_missing_epoch_or_image_source_raises_an_error():
    with pytest.raises(ValueError, match=r"Mosaic .* \[2, 4\].*no 'epoch'"):
        strong_augmentation()(*scene())
    with pytest.raises(ValueError, match="no 'draw'"):
        Mosaic()(*scene())


@pytest.mark.parametrize(
    "epochs", [[4, 2], [3, 3], [-1, 4], [1, 2, 3], 4, "45", [0.5, 2], [None, 4], [True, 4], [0, True]]
)
def test_invalid_epochs_raise_an_error(epochs):
    with pytest.raises(ValueError, match=r"epochs=.* of Mosaic must be"):
        InEpochs(Mosaic(), epochs=epochs)


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_invalid_probabilities_raise_an_error(probability):
    with pytest.raises(ValueError, match="probability=.* of Mosaic must be"):
        InEpochs(Mosaic(), probability=probability)
    with pytest.raises(ValueError, match="flip must be between 0 and 1"):
        RealtimeAugmentation(size=640, flip_probability=probability)
    with pytest.raises(ValueError, match="photometric distortion must be between 0 and 1"):
        RandomPhotometricDistort(p=probability)


def test_values_out_of_range_raise_an_error():
    with pytest.raises(ValueError, match=r"scale=\[1.5, 0.5\] of a mosaic must be"):
        Mosaic(scale=[1.5, 0.5])
    with pytest.raises(ValueError, match="degrees=-10 of a mosaic"):
        Mosaic(degrees=-10)
    with pytest.raises(ValueError, match="translate=1.5 of a mosaic"):
        Mosaic(translate=1.5)
    with pytest.raises(ValueError, match="at least 1 pixel, got"):
        Mosaic(size=0)
    with pytest.raises(ValueError, match=r"hue=\[-1, 1\] must be"):
        RandomPhotometricDistort(hue=[-1, 1])
    with pytest.raises(ValueError, match=r"contrast=\[2, 1\] must be"):
        RandomPhotometricDistort(contrast=[2, 1])
    with pytest.raises(ValueError, match=r"scale=\[0, 1\] of an IoU crop must be"):
        RandomIoUCrop(scale=[0, 1])
    with pytest.raises(ValueError, match=r"aspect_ratio=\[2, 1\] of an IoU crop must be"):
        RandomIoUCrop(aspect_ratio=[2, 1])
    with pytest.raises(ValueError, match=r"overlaps=\[0.5\] of an IoU crop must .* 1 or more"):
        RandomIoUCrop(overlaps=[0.5])
    with pytest.raises(ValueError, match="trials=0 of an IoU crop"):
        RandomIoUCrop(trials=0)
    with pytest.raises(ValueError, match="size=0 must be"):
        RealtimeAugmentation(size=0)
    with pytest.raises(ValueError, match=r"sides=\[\] must be"):
        square_train_augmentation(sides=[])
