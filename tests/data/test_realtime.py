"""Rectangles of one colour each are where their boxes say, whatever is done to the image."""

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
from detrex_lite.data.realtime import _box_around_visible, adjust_hue

COLOURS = torch.tensor(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]], dtype=torch.uint8
)
BOXES = [(20, 30, 70, 90), (90, 10, 150, 60), (80, 80, 180, 130), (200, 40, 230, 140)]


def scene(height=160, width=240, boxes=BOXES, first=0):
    """A grey image with a rectangle for each box, whose label says its colour."""
    image = torch.full((3, height, width), 110, dtype=torch.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        image[:, y0:y1, x0:x1] = COLOURS[first + number][:, None, None]
    wrapped = tv_tensors.BoundingBoxes(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
    )
    return tv_tensors.Image(image), {"boxes": wrapped, "labels": first + torch.arange(len(boxes))}


def seen(image, label, tolerance=80):
    """The box around the pixels of a colour; None when there are none."""
    near = (image.float() - COLOURS[label].float()[:, None, None]).abs().amax(0) < tolerance
    y, x = near.nonzero(as_tuple=True)
    return torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float() if len(x) else None


def assert_boxes_are_where_colours_are(image, target, within=1.0, thinnest=2.0):
    """Slivers thinner than `thinnest` may be lost between the sampled pixels."""
    assert target["boxes"].canvas_size == tuple(image.shape[-2:])
    for box, label in zip(target["boxes"].as_subclass(torch.Tensor), target["labels"].tolist(), strict=True):
        if (box[2:] - box[:2]).min() >= thinnest:
            found = seen(image, label)
            assert found is not None, (label, box)
            torch.testing.assert_close(found, box, rtol=0, atol=within)


def test_zooming_out_and_cropping_keep_boxes_exact_and_drop_what_is_cut_away():
    torch.manual_seed(0)
    augmentation = v2.Compose(
        [v2.RandomZoomOut(fill=0, side_range=(1, 2), p=0.5), RandomIoUCrop(), v2.SanitizeBoundingBoxes()]
    )
    kept = set()
    for _ in range(60):
        image, target = augmentation(*scene())
        assert_boxes_are_where_colours_are(image, target, within=0)
        kept.add(len(target["labels"]))
        # Whatever lies in the image with its centre is still an object.
        whole = {label for label in range(4) if (box := seen(image, label, 1)) is not None and _is_whole(box, label)}
        assert whole <= set(target["labels"].tolist())
    assert len(kept) > 2


def _is_whole(box, label):
    x0, y0, x1, y1 = BOXES[label]
    return (box[2:] - box[:2]).tolist() == [x1 - x0, y1 - y0]


def test_an_image_without_objects_is_not_cropped():
    image, target = scene(boxes=[])
    cropped, after = RandomIoUCrop()(image, target)
    assert cropped is image
    assert after is target


def test_iou_crops_are_drawn_as_torchvision_draws_them():
    """Regions, and how often an image is left as it is, have the same distribution."""
    means = []
    for crop in (RandomIoUCrop(), v2.RandomIoUCrop()):
        torch.manual_seed(0)
        facts = []
        for _ in range(500):
            image, target = v2.SanitizeBoundingBoxes()(*crop(*scene()))
            height, width = image.shape[-2:]
            facts.append(
                [
                    height / 160,
                    width / 240,
                    height * width / 38400,
                    len(target["labels"]),
                    (height, width) == (160, 240),
                ]
            )
        means.append(torch.tensor(facts, dtype=torch.float32))
    deviation = torch.cat(means).std(0) * (2 / 500) ** 0.5
    assert ((means[0].mean(0) - means[1].mean(0)).abs() < 4 * deviation).all()


def test_an_iou_crop_shows_as_much_of_an_object_as_was_drawn():
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
        seen_share = (target["boxes"][0, 2:] - target["boxes"][0, :2]).prod() / (height * width + 140 * 120)
        assert seen_share >= 1 / 3  # an IoU of a half: the intersection is a third of both together
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
    """A source of images with one object each, of different sizes."""
    numbers = count(1)

    def draw():
        number = next(numbers)
        return scene(100 + 20 * number, 220 - 20 * number, [(30, 20, 90, 70)], first=number)

    return draw


@pytest.mark.parametrize("degrees", [0.0, 10.0, 170.0])
def test_objects_of_a_mosaic_are_where_they_are_seen(degrees):
    torch.manual_seed(1)
    seen_labels = set()
    for _ in range(25):
        image, target = scene(boxes=[(40, 50, 120, 110)])
        mosaic = Mosaic(size=160, degrees=degrees)
        image, target = mosaic(image, {**target, "draw": draw_scenes(), "epoch": 0})
        # Half a pixel for the resize before and one for the nearest pixel; where it is turned, more for sharp corners.
        assert_boxes_are_where_colours_are(image, target, within=2.0 if degrees else 1.5)
        assert target["labels"].tolist() == [0, 1, 2, 3]
        seen_labels |= {label for label in range(4) if seen(image, label) is not None}
        assert image.dtype == torch.uint8
    assert seen_labels == {0, 1, 2, 3}


def test_a_mosaic_that_is_not_moved_is_the_grid_of_its_images():
    mosaic = Mosaic(size=160, degrees=0, translate=0, scale=(1, 1))
    others = [scene(160, 200, [(0, 0, 50, 50)], first=1), scene(160, 180, [], first=2), scene(200, 160, [], first=3)]
    draws = iter(others)
    image, target = scene(boxes=BOXES[:1])
    image, target = mosaic(image, {**target, "draw": lambda: next(draws)})
    assert image.shape == (3, 400, 480)  # the highest is 200, the widest 240
    plain = image.as_subclass(torch.Tensor)
    torch.testing.assert_close(plain[:, :160, :240], scene(boxes=BOXES[:1])[0].as_subclass(torch.Tensor))
    torch.testing.assert_close(plain[:, :160, 240:440], others[0][0].as_subclass(torch.Tensor))
    torch.testing.assert_close(plain[:, 200:360, :180], others[1][0].as_subclass(torch.Tensor))
    torch.testing.assert_close(plain[:, 200:, 240:400], others[2][0].as_subclass(torch.Tensor))
    assert not plain[:, 160:200].any()
    expected = torch.tensor([[20.0, 30, 70, 90], [240, 0, 290, 50]])
    torch.testing.assert_close(target["boxes"].as_subclass(torch.Tensor), expected)
    assert target["labels"].tolist() == [0, 1]


def test_masks_go_the_way_of_the_image():
    torch.manual_seed(2)

    def masked(image, target):
        masks = torch.stack([(image == COLOURS[k][:, None, None]).all(0) for k in target["labels"]])
        return image, {**target, "masks": tv_tensors.Mask(masks.to(torch.uint8))}

    for _ in range(3):
        image, target = masked(*scene(boxes=[(40, 50, 120, 110)]))
        # As large as the cells, so that nothing is blended by a resize.
        mosaic = Mosaic(size=160, degrees=15)
        image, target = mosaic(image, {**target, "draw": lambda: masked(*scene(boxes=[(40, 50, 120, 110)]))})
        colours = (image.as_subclass(torch.Tensor) == COLOURS[0][:, None, None]).all(0)
        union = target["masks"].as_subclass(torch.Tensor).bool().any(0)
        # Pillow's and torch's affine transforms round the places of pixels on edges differently.
        assert (union != colours).float().mean() < 0.004


def test_all_objects_may_be_turned_out_of_the_image():
    assert _box_around_visible(torch.tensor([[-5.0, 0], [-1, 0], [-1, 9], [-5, 9]]), (10, 10)).tolist() == [0] * 4


def test_the_box_around_what_is_seen_of_a_turned_square():
    """A square on its corner, of which an edge of the image cuts off one half: the box around it ends at its middle."""
    polygon = torch.tensor([[0.0, -4], [4, 0], [0, 4], [-4, 0]]) + torch.tensor([0.0, 10])
    assert _box_around_visible(polygon, (20, 20)).tolist() == [0, 6, 4, 14]
    moved = polygon + torch.tensor([-2.0, 0])
    # What is left reaches as far up and down as the square's edges do where they cross the side of the image.
    assert _box_around_visible(moved, (20, 20)).tolist() == [0, 8, 2, 12]
    assert _box_around_visible(polygon + 30, (20, 20)).tolist() == [0, 0, 0, 0]
    whole = torch.tensor([[-50.0, -50], [50, -50], [50, 50], [-50, 50]])
    assert _box_around_visible(whole, (20, 30)).tolist() == [0, 0, 30, 20]


@pytest.mark.parametrize("shift", [-0.5, -0.05, 0.0, 0.03, 0.25, 0.5])
def test_hue_is_torchvisions(shift):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 200, 150), generator=generator, dtype=torch.uint8)
    image[:, :4] = image[:1, :4]  # grey
    image[:, 4] = 0
    turned = adjust_hue(tv_tensors.Image(image), shift)
    assert isinstance(turned, tv_tensors.Image)
    expected = v2.functional.adjust_hue(image, shift)
    assert (turned.int() - expected.int()).abs().max() <= 1


def test_photometric_distortion_draws_each_part(monkeypatch):
    """With the probability of none nothing happens; of all, colours change and boxes do not."""
    image, target = scene()
    same, after = RandomPhotometricDistort(p=0)(image, target)
    torch.testing.assert_close(same, image)
    assert after is target
    torch.manual_seed(0)
    called = []
    for name in ("adjust_brightness", "adjust_contrast", "adjust_saturation", "permute_channels"):
        function = getattr(v2.functional, name)
        monkeypatch.setattr(
            v2.functional, name, lambda x, value, f=function, n=name: called.append((n, value)) or f(x, value)
        )
    for _ in range(20):
        distorted, _ = RandomPhotometricDistort(p=1)(image, target)
        assert distorted.dtype == torch.uint8
    values = {name: [value for other, value in called if other == name] for name, _ in called}
    assert {len(drawn) for drawn in values.values()} == {20}
    assert all(0.875 <= value <= 1.125 for value in values["adjust_brightness"])
    assert min(values["adjust_contrast"]) < 0.9 < 1.1 < max(values["adjust_contrast"])
    assert len({tuple(order) for order in values["permute_channels"]}) > 3
    places = [number % 4 for number, (name, _) in enumerate(called) if name == "adjust_contrast"]
    assert set(places) == {1, 2}  # before the saturation, or after it and the hue


def strong(**more):
    parts = {
        "mosaic": InEpochs(Mosaic(size=100), probability=0.5, epochs=[2, 4]),
        "photometric_distort": InEpochs(RandomPhotometricDistort(), epochs=[2, 6]),
        "zoom_out": InEpochs(v2.RandomZoomOut(fill=0, p=1.0), epochs=[2, 6]),
        "iou_crop": InEpochs(RandomIoUCrop(), epochs=[2, 6], probability=0.8),
    }
    return RealtimeAugmentation(size=(96, 128), **{**parts, **more})


class Recording(torch.nn.Module):
    """Notes its name and leaves the image as it is."""

    def __init__(self, name, notes):
        super().__init__()
        self.name, self.notes = name, notes

    def forward(self, image, target):
        self.notes.append(self.name)
        return image, target


def applied(epoch, images=200):
    """Which operations were applied to each of many images of an epoch."""
    notes = []
    operations = {name: Recording(name, notes) for name in ("mosaic", "photometric_distort", "zoom_out", "iou_crop")}
    augmentation = strong(
        mosaic=InEpochs(operations["mosaic"], probability=0.5, epochs=[4, 64]),
        photometric_distort=InEpochs(operations["photometric_distort"], epochs=[4, 120]),
        zoom_out=InEpochs(operations["zoom_out"], epochs=[4, 120]),
        iou_crop=InEpochs(operations["iou_crop"], epochs=[4, 120], probability=0.8),
    )
    ways = []
    for _ in range(images):
        notes.clear()
        image, _ = augmentation(scene()[0], {**scene()[1], "epoch": epoch})
        assert image.shape == (3, 96, 128)
        ways.append(tuple(notes))
    return ways


def test_operations_have_their_epochs_and_a_mosaic_excludes_zooming_out_and_cropping():
    torch.manual_seed(0)
    for epoch in (0, 3, 120, 131):
        assert set(applied(epoch, 20)) == {()}
    for epoch in (4, 63):
        ways = applied(epoch)
        expected = {
            ("mosaic", "photometric_distort"),
            ("photometric_distort", "zoom_out"),
            ("photometric_distort", "zoom_out", "iou_crop"),
        }
        assert set(ways) == expected
        assert 70 < ways.count(("mosaic", "photometric_distort")) < 130
    for epoch in (64, 119):
        ways = applied(epoch)
        assert set(ways) == {("photometric_distort", "zoom_out"), ("photometric_distort", "zoom_out", "iou_crop")}
        assert 135 < ways.count(("photometric_distort", "zoom_out", "iou_crop")) < 185


def test_the_whole_augmentation_gives_one_size_and_boxes_of_a_pixel_at_least():
    torch.manual_seed(3)
    without_colours = strong(photometric_distort=None)
    for epoch in (0, 2, 3, 5, 6):
        for _ in range(15):
            image, target = scene(320, 480, [tuple(2 * side for side in box) for box in BOXES])
            image, target = without_colours(image, {**target, "epoch": epoch, "draw": draw_scenes()})
            assert image.shape == (3, 96, 128)
            sides = target["boxes"].as_subclass(torch.Tensor)
            assert len(sides) == len(target["labels"])
            assert (sides[:, 2:] - sides[:, :2] >= 1).all()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_resizing_without_the_aspect_keeps_boxes(flip):
    image, target = RealtimeAugmentation(size=(320, 240), flip_probability=flip)(*scene())
    assert image.shape == (3, 320, 240)
    assert_boxes_are_where_colours_are(image, target)
    assert target["labels"].tolist() == [0, 1, 2, 3]


def test_tiny_boxes_are_left_out():
    _, target = RealtimeAugmentation(size=80, flip_probability=0)(*scene(boxes=[(0, 0, 1, 90), (5, 5, 60, 60)]))
    assert target["labels"].tolist() == [1]  # the first is a third of a pixel wide now


def test_test_augmentation_is_the_size_alone():
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
        assert_boxes_are_where_colours_are(image, target, within=1.5, thinnest=6)
    assert shapes == {(3, 64, 64), (3, 128, 128)}


def test_epochs_need_to_be_known():
    with pytest.raises(ValueError, match=r"Mosaic is limited to epochs \[2, 4\].*no 'epoch'"):
        strong()(*scene())
    with pytest.raises(ValueError, match="needs further images.*no 'draw'"):
        Mosaic()(*scene())


@pytest.mark.parametrize(
    "epochs", [[4, 2], [3, 3], [-1, 4], [1, 2, 3], 4, "45", [0.5, 2], [None, 4], [True, 4], [0, True]]
)
def test_epochs_out_of_order_are_refused(epochs):
    with pytest.raises(ValueError, match=r"epochs=.* of Mosaic must be \[first, end\] with 0 <= first < end"):
        InEpochs(Mosaic(), epochs=epochs)


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_probabilities_are_between_0_and_1(probability):
    with pytest.raises(ValueError, match="probability=.* of Mosaic must be between 0 and 1"):
        InEpochs(Mosaic(), probability=probability)
    with pytest.raises(ValueError, match="of the flip must be between 0 and 1"):
        RealtimeAugmentation(size=640, flip_probability=probability)
    with pytest.raises(ValueError, match="of a photometric distortion must be between 0 and 1"):
        RandomPhotometricDistort(p=probability)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"scale=\[1.5, 0.5\] of a mosaic must be \[low, high\]"):
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
    with pytest.raises(ValueError, match=r"overlaps=\[0.5\] of an IoU crop must .* one must be 1 or more"):
        RandomIoUCrop(overlaps=[0.5])
    with pytest.raises(ValueError, match="trials=0 of an IoU crop"):
        RandomIoUCrop(trials=0)
    with pytest.raises(ValueError, match="size=0 must be at least one pixel"):
        RealtimeAugmentation(size=0)
    with pytest.raises(ValueError, match=r"sides=\[\] must be"):
        square_train_augmentation(sides=[])
