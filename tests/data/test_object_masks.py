"""Transformed masks are equal to masks computed from the transformed image."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from detrex_lite.data import (
    InEpochs,
    Mosaic,
    ObjectMasks,
    PadToSize,
    RandomIoUCrop,
    RandomPhotometricDistort,
    RandomSizeCrop,
    RealtimeAugmentation,
    detr_train_augmentation,
    lsj_train_augmentation,
    square_train_augmentation,
)
from detrex_lite.data.object_masks import move_pixels, resize_masks
from detrex_lite.data.shapes import draw_shapes
from detrex_lite.structures import masks_to_boxes


def sample(seed: int = 0, side: int = 64, objects: int = 9, background: int = 0):
    """An image in which object k has the value 20 + 20k, and its target, in which the label of object k is k."""
    masks = np.array([mask for _, mask in draw_shapes(np.random.default_rng(seed), side, objects)[1]])
    masks = torch.from_numpy(masks)
    image = torch.full((3, side, side), background, dtype=torch.uint8)
    for k, mask in enumerate(masks):
        image[:, mask] = 20 + 20 * k
    boxes = tv_tensors.BoundingBoxes(masks_to_boxes(masks), format="XYXY", canvas_size=(side, side))
    target = {"boxes": boxes, "labels": torch.arange(len(masks)), "masks": ObjectMasks(masks.to(torch.uint8))}
    return tv_tensors.Image(image), target


def assert_masks_agree_with_pixels(image, target):
    assert isinstance(target["masks"], ObjectMasks)
    assert target["masks"].dtype == torch.uint8
    assert len(target["masks"]) == len(target["labels"]) == len(target["boxes"])
    assert len(target["labels"]) > 0
    for k, mask in zip(target["labels"].tolist(), target["masks"].as_subclass(torch.Tensor), strict=True):
        assert torch.equal(mask.bool(), image[0].as_subclass(torch.Tensor) == 20 + 20 * k)


NEAREST = v2.InterpolationMode.NEAREST


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomHorizontalFlip(p=1),
        v2.RandomVerticalFlip(p=1),
        v2.RandomCrop((40, 30)),
        RandomSizeCrop(20, 50),
        RandomIoUCrop(overlaps=(0.1, 1.0)),
        PadToSize(100, 70),
        v2.RandomZoomOut(fill=0, side_range=(1.5, 3.0), p=1),
        v2.Compose([v2.RandomHorizontalFlip(p=1), v2.Pad([3, 5, 7, 9]), v2.RandomCrop((50, 60)), PadToSize(90, 90)]),
        v2.Resize((128, 192), interpolation=NEAREST),  # by integer factors, so that the nearest pixel is unique
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_masks_after_geometric_transforms_are_exact(transform):
    for seed in range(4):
        torch.manual_seed(seed)
        assert_masks_agree_with_pixels(*transform(*sample(seed)))


def test_a_photometric_distortion_does_not_change_masks():
    image, target = sample()
    _, distorted_target = RandomPhotometricDistort(p=1.0)(image, target)
    assert torch.equal(distorted_target["masks"], target["masks"])


@pytest.mark.parametrize("padding", [v2.RandomZoomOut(fill=114, p=1), v2.Pad(9, fill=114), PadToSize(80, 80, fill=128)])
def test_fill_pixels_belong_to_no_mask(padding):
    assert_masks_agree_with_pixels(*padding(*sample()))
    _, target = v2.RandomAffine(20, translate=(0.2, 0.2), fill=114)(*sample())
    assert set(target["masks"].unique().tolist()) == {0, 1}
    assert (target["masks"].sum((1, 2)) <= sample()[1]["masks"].sum((1, 2)) * 1.1).all()


@pytest.mark.parametrize(
    "transform", [v2.RandomAffine(20), v2.RandomRotation(30), v2.RandomPerspective(p=1), v2.ElasticTransform()]
)
@pytest.mark.parametrize("objects", [0, 5])
def test_other_transforms_of_torchvision_accept_object_masks(transform, objects):
    image, target = sample(objects=objects) if objects else sample()
    target = {**target, "masks": ObjectMasks(target["masks"][:objects])}
    masks = transform(image, target)[1]["masks"]
    assert isinstance(masks, ObjectMasks)
    assert masks.shape == (objects, 64, 64)


@pytest.mark.parametrize("size", [(64, 64), (31, 90), (128, 17), (1, 1), (200, 200)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_resized_masks_use_the_pixel_that_contains_the_centre(size, dtype):
    masks = torch.rand(11, 60, 77, generator=torch.Generator().manual_seed(0)) < 0.5
    resized = resize_masks(masks.to(dtype), size)
    assert resized.dtype == dtype
    assert resized.shape == (11, *size)
    for row in range(0, size[0], 7):
        for column in range(0, size[1], 5):
            source = masks[:, int((row + 0.5) * 60 / size[0]), int((column + 0.5) * 77 / size[1])]
            assert torch.equal(resized[:, row, column].bool(), source)


@pytest.mark.parametrize("size", [(160, 240), (25, 30), (100, 40)])
def test_resized_masks_are_aligned_with_resized_images(size):
    """The mean shift is below 0.1 pixel; torchvision shifts masks by up to half a pixel of the result to the left."""
    shifts = []
    for seed in range(12):
        image, target = v2.Resize(size, antialias=True)(*sample(seed, objects=1))
        centres = [
            torch.stack([(weight.sum(1 - axis) * torch.arange(size[axis])).sum() / weight.sum() for axis in (0, 1)])
            for weight in (target["masks"][0].float(), image[0].float())
        ]
        shifts.append((centres[0] - centres[1]) / torch.tensor(size) * 64)
    assert torch.stack(shifts).mean(0).abs().max() < 0.1


@pytest.mark.parametrize("count", [0, 1, 8, 9, 30])
def test_masks_are_transformed_in_groups_of_eight(count):
    masks = (torch.rand(count, 12, 15, generator=torch.Generator().manual_seed(1)) < 0.5).to(torch.uint8)
    calls = []
    moved = move_pixels(masks, lambda bits: calls.append(1) or bits.flip(0)[:5])
    assert len(calls) == max(1, -(-count // 8))
    assert torch.equal(moved, masks.flip(1)[:, :5])


def test_masks_of_a_mosaic_agree_with_its_image():
    def draw():
        image, target = sample(int(torch.randint(100, ())), objects=3)
        offset = 60 * next(numbers)
        image = tv_tensors.Image(torch.where(image > 0, image + offset, image))
        return image, {**target, "labels": target["labels"] + offset // 20}

    for seed in range(3):
        numbers = iter((1, 2, 3))
        torch.manual_seed(seed)
        image, target = sample(seed, objects=3)
        mosaic = Mosaic(size=64, degrees=10.0, translate=0.1, scale=(0.6, 1.4))
        mixed, objects = mosaic(image, {**target, "draw": draw})
        assert len(objects["masks"]) > 9
        assert_masks_agree_with_pixels(mixed, objects)


@pytest.mark.parametrize(
    "augmentation",
    [
        detr_train_augmentation(short_edge_lengths=(50, 90), short_edges_before_crop=(40, 80), crop_range=(30, 60)),
        lsj_train_augmentation(image_size=80, scale_range=(0.5, 2.0)),
        lsj_train_augmentation(image_size=80, scale_range=(0.5, 2.0), pad=128),
        square_train_augmentation(sides=(64, 96), short_edges_before_crop=(40, 80), crop_range=(30, 60)),
        RealtimeAugmentation(
            size=80,
            photometric_distort=None,
            zoom_out=v2.RandomZoomOut(fill=0, p=0.5),
            iou_crop=InEpochs(RandomIoUCrop(), probability=0.8),
        ),
    ],
    ids=["detr", "lsj", "lsj_padded", "square", "realtime"],
)
def test_augmented_masks_agree_with_their_boxes_and_pixels(augmentation):
    num_compared = 0
    for seed in range(8):
        torch.manual_seed(seed)
        image, target = augmentation(*sample(seed))
        masks = target["masks"].as_subclass(torch.Tensor)
        assert masks.shape == (len(target["labels"]), *image.shape[-2:])
        assert len(target["labels"]) == len(target["boxes"])
        mask_boxes = masks_to_boxes(masks.bool())
        is_visible = mask_boxes[:, 2] > 0
        # The box of a mask is inside the object's box; for cropped objects it may be smaller.
        boxes = target["boxes"][is_visible].as_subclass(torch.Tensor)
        assert (mask_boxes[is_visible][:, :2] >= boxes[:, :2] - 2).all()
        assert (mask_boxes[is_visible][:, 2:] <= boxes[:, 2:] + 2).all()
        for k, mask in zip(target["labels"].tolist(), masks.bool(), strict=True):
            masked_pixels = image[0][mask]
            if len(masked_pixels) > 100:  # pixels are blurred only at edges
                assert abs(masked_pixels.float().median() - (20 + 20 * k)) < 5
                num_compared += 1
    assert num_compared > 8


def test_padded_large_scale_jittering_fills_with_grey():
    torch.manual_seed(0)
    image, target = lsj_train_augmentation(image_size=96, scale_range=(0.3, 0.4), pad=128)(*sample(background=7))
    assert image.shape == (3, 96, 96)
    assert target["masks"].shape[1:] == (96, 96)
    assert target["boxes"].canvas_size == (96, 96)
    assert (image[:, 40:] == 128).all()
    assert (image[:, :, 40:] == 128).all()
    assert target["masks"][:, 40:].sum() == target["masks"][:, :, 40:].sum() == 0
    assert image[0, 0, 0] == 7


def test_invalid_padding_raises_an_error():
    with pytest.raises(ValueError, match=r"height=0, width=5, fill=0"):
        PadToSize(0, 5)
    with pytest.raises(ValueError, match=r"fill=300"):
        PadToSize(5, 5, fill=300)
