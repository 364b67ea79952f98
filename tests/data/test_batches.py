import pytest
import torch

from detrex_lite.data import Mixup, MultiScale, scales_around
from detrex_lite.structures import Boxes, Instances


def sample(value, side=64, boxes=((8.0, 16.0, 32.0, 48.0),), label=0):
    image = torch.full((3, side, side), value, dtype=torch.uint8)
    for x0, y0, x1, y1 in boxes:
        image[:, int(y0) : int(y1), int(x0) : int(x1)] = 255
    instances = Instances(
        (side, side),
        gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        gt_classes=torch.full((len(boxes),), label, dtype=torch.int64),
    )
    return {"image": image, "instances": instances, "height": 300, "width": 400, "file_name": f"{value}.jpg"}


def batch():
    return [sample(10 * number, label=number) for number in range(1, 4)]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_images_of_a_batch_are_resized_to_one_size_with_their_boxes(interpolation):
    torch.manual_seed(0)
    multi_scale = MultiScale([32, 96, 128], interpolation=interpolation)
    sides = set()
    for _ in range(20):
        resized = multi_scale(batch(), epoch=0)
        (side,) = {sample["image"].shape[-1] for sample in resized}
        sides.add(side)
        for number, sample in enumerate(resized, 1):
            assert sample["image"].shape == (3, side, side)
            assert sample["image"].dtype == torch.uint8
            assert sample["instances"].image_size == (side, side)
            assert (sample["height"], sample["width"]) == (300, 400)
            box = sample["instances"].gt_boxes.tensor[0]
            torch.testing.assert_close(box, torch.tensor([8.0, 16, 32, 48]) * side / 64)
            bright_pixels = (sample["image"][0] > 140).nonzero()
            visible_box = torch.cat([bright_pixels.min(0).values.flip(0), bright_pixels.max(0).values.flip(0) + 1])
            torch.testing.assert_close(visible_box.float(), box, rtol=0, atol=1)
            assert sample["instances"].gt_classes.tolist() == [number]
    assert sides == {32, 96, 128}


def test_nearest_interpolation_agrees_with_float_images():
    """The published code interpolates normalised images, which selects the same nearest pixels."""
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    resized = MultiScale([96])([{**sample(0), "image": image}], epoch=0)[0]["image"]
    expected = torch.nn.functional.interpolate(image[None] / 255, size=96)[0]
    torch.testing.assert_close(resized / 255, expected)


def test_images_of_any_aspect_ratio_become_squares():
    sample_of_32x64 = {**sample(0), "image": torch.zeros(3, 32, 64, dtype=torch.uint8)}
    sample_of_32x64["instances"] = Instances(
        (32, 64), gt_boxes=Boxes(torch.tensor([[0.0, 0, 64, 16]])), gt_classes=torch.tensor([0])
    )
    resized = MultiScale([96])([sample_of_32x64], epoch=0)[0]
    assert resized["image"].shape == (3, 96, 96)
    assert resized["instances"].gt_boxes.tensor.tolist() == [[0, 0, 96, 48]]


def test_images_are_resized_only_in_the_given_epochs():
    multi_scale = MultiScale([32], epochs=[1, 3])
    assert [multi_scale(batch(), epoch=epoch)[0]["image"].shape[-1] for epoch in range(4)] == [64, 32, 32, 64]


def test_scales_agree_with_the_published_code():
    assert scales_around(640, 3) == [480, 512, 544, 576, 608, 640, 640, 640, 800, 768, 736, 704, 672]
    assert len(scales_around(640, 20)) == 30
    assert scales_around(96, 1) == [64, 96, 96]  # 5/4 of the base is less than the next multiple of 32


def test_invalid_scales_raise_an_error():
    with pytest.raises(ValueError, match=r"multiples of 32 pixels: \[100, 0\]"):
        MultiScale([64, 100, 0])
    with pytest.raises(ValueError, match="multiples of 32 pixels: .* none"):
        MultiScale([])
    assert MultiScale([48], divisor=16).sizes == (48,)
    with pytest.raises(ValueError, match="divisor=0"):
        MultiScale([64], divisor=0)
    with pytest.raises(ValueError, match="interpolation='cubic' must be one of"):
        MultiScale([64], interpolation="cubic")
    with pytest.raises(ValueError, match=r"epochs=\[3, 1\] of multi-scale batches must be"):
        MultiScale([64], epochs=[3, 1])
    with pytest.raises(ValueError, match="base=650 .* multiple of 32"):
        scales_around(650, 3)
    with pytest.raises(ValueError, match="repeat=0 must be at least 1"):
        scales_around(640, 0)


def test_fields_that_cannot_be_resized_raise_an_error():
    samples = batch()
    samples[1]["instances"].set("gt_keypoints", torch.zeros(1, 17, 3))
    with pytest.raises(ValueError, match="resize .*gt_keypoints"):
        MultiScale([32])(samples, epoch=0)


def test_mixup_blends_each_image_with_the_previous_image_and_has_the_objects_of_both():
    samples = [sample(10 * number, label=number, boxes=[(0, 0, number, 8)]) for number in range(1, 4)]
    previous = sample(200, label=9, boxes=[(0.0, 0, 4, 8), (4, 4, 8, 8)])
    mixed = Mixup(probability=1, share=[0.4, 0.4])(samples, lambda: previous, epoch=0)
    for original, previous_sample, result in zip(samples, [previous, *samples], mixed, strict=False):
        blended = 0.4 * original["image"].float() + 0.6 * previous_sample["image"].float()
        assert (blended - result["image"]).abs().max() <= 0.5001
        assert result["image"].dtype == torch.uint8
        instances = result["instances"]
        expected = torch.cat([original["instances"].gt_boxes.tensor, previous_sample["instances"].gt_boxes.tensor])
        torch.testing.assert_close(instances.gt_boxes.tensor, expected)
        expected = torch.cat([original["instances"].gt_classes, previous_sample["instances"].gt_classes])
        torch.testing.assert_close(instances.gt_classes, expected)
        assert result["file_name"] == original["file_name"]
    assert samples[0]["image"][0, 20, 20] == 10  # the inputs are not modified
    assert len(samples[0]["instances"]) == 1


def test_mixup_draws_a_new_weight_for_each_batch():
    torch.manual_seed(0)
    pair = [sample(0, boxes=[]), sample(200, boxes=[])]
    mixtures = [Mixup(probability=1)(pair, lambda: pair[1], epoch=0) for _ in range(30)]
    values = [first["image"][0, 0, 0].item() for first, _ in mixtures]
    assert min(values) >= 90
    assert max(values) <= 110
    assert len(set(values)) > 8
    # Both images have the same weight in their own mixture, so the two mixtures add up to the two images.
    assert all(first["image"][0, 0, 0] + second["image"][0, 0, 0].int() == 200 for first, second in mixtures)


def test_mixup_is_applied_in_its_epochs_with_its_probability():
    torch.manual_seed(0)
    mixup = Mixup(probability=0.5, epochs=[2, 4])

    def count_mixed(epoch):
        return sum(mixup(batch(), lambda: sample(0), epoch=epoch)[0]["image"][0, 0, 0] != 10 for _ in range(100))

    assert [count_mixed(epoch) for epoch in (0, 1, 4)] == [0, 0, 0]
    assert all(30 < count_mixed(epoch) < 70 for epoch in (2, 3))


def test_mixup_of_several_sizes_raises_an_error():
    with pytest.raises(ValueError, match="one size.* 10.jpg and 7.jpg .* 64x64 and 32x32"):
        Mixup(probability=1)([sample(10)], lambda: sample(7, side=32), epoch=0)


def test_invalid_settings_of_mixup_raise_an_error():
    with pytest.raises(ValueError, match="probability=1.1 of mixup must be between 0 and 1"):
        Mixup(probability=1.1)
    with pytest.raises(ValueError, match=r"epochs=\[4\] of mixup must be"):
        Mixup(epochs=[4])
    with pytest.raises(ValueError, match=r"share=\[0.6, 0.4\] of mixup must be"):
        Mixup(share=[0.6, 0.4])
