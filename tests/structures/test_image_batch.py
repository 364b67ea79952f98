import pytest
import torch
from torch.testing import assert_close

from detrex_lite.structures import ImageBatch


def test_images_are_padded_at_the_right_and_the_bottom():
    first, second = torch.ones(3, 4, 6), 2 * torch.ones(3, 5, 2)
    batch = ImageBatch.from_images([first, second])
    assert batch.tensor.shape == (2, 3, 5, 6)
    assert batch.image_sizes == [(4, 6), (5, 2)]
    assert len(batch) == 2
    torch.testing.assert_close(batch.tensor[0, :, :4, :6], first)
    torch.testing.assert_close(batch.tensor[1, :, :5, :2], second)
    assert batch.tensor.sum() == first.sum() + second.sum()  # the padding is zero
    assert (~batch.mask).sum(dim=(1, 2)).tolist() == [24, 10]
    assert not batch.mask[0, :4, :6].any()
    assert not batch.mask[1, :5, :2].any()


@pytest.mark.parametrize("count", [1, 3])
def test_images_of_one_size_have_no_mask(count):
    batch = ImageBatch.from_images([torch.zeros(3, 8, 6)] * count)
    assert batch.tensor.shape == (count, 3, 8, 6)
    assert batch.mask is None
    assert batch.mask_or_zeros().shape == (1, 8, 6)
    assert not batch.mask_or_zeros().any()
    assert batch.resampled(torch.zeros(count, 5, 4, 3)).mask is None


@pytest.mark.parametrize(
    ("size", "divisor", "padded"),
    [((10, 17), 16, (16, 32)), ((16, 32), 16, (16, 32)), ((1, 1), 32, (32, 32))],
)
def test_sizes_are_rounded_up_to_a_multiple(size, divisor, padded):
    batch = ImageBatch.from_images([torch.ones(3, *size)], size_divisibility=divisor)
    assert batch.tensor.shape[-2:] == padded
    assert batch.image_sizes == [size]
    if size == padded:
        assert batch.mask is None
    else:
        assert (~batch.mask).sum() == size[0] * size[1]


def test_an_empty_batch_raises_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        ImageBatch.from_images([])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_batch_keeps_the_dtype_of_images(dtype):
    batch = ImageBatch.from_images([torch.ones(3, 2, 2, dtype=dtype), torch.ones(3, 3, 3, dtype=dtype)])
    assert batch.tensor.dtype == dtype


def test_resampled_mask_uses_the_nearest_pixel():
    batch = ImageBatch.from_images([torch.zeros(1, 64, 40), torch.zeros(1, 33, 64)])
    # A cell counts as image when the pixel at its upper left corner does.
    assert batch.resampled(torch.zeros(2, 5, 2, 2)).mask is None
    resampled = batch.resampled(torch.zeros(2, 5, 8, 8))
    assert resampled.image_sizes == [(8, 5), (5, 8)]
    assert resampled.mask[0].tolist() == [[False] * 5 + [True] * 3] * 8
    assert resampled.mask[1].tolist() == [[False] * 8] * 5 + [[True] * 8] * 3
    assert resampled.mask_or_zeros() is resampled.mask


def test_resampling_agrees_with_nearest_interpolation():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        heights, widths = torch.randint(1, 200, (2, 2), generator=generator).tolist()
        batch = ImageBatch.from_images([torch.zeros(1, h, w) for h, w in zip(heights, widths, strict=True)])
        size = [-(-side // 32) for side in batch.tensor.shape[-2:]]
        expected = torch.nn.functional.interpolate(batch.mask_or_zeros()[None].double(), size=size)[0].bool()
        actual = batch.resampled(torch.zeros(2, 1, *size)).mask_or_zeros()
        assert actual.expand(2, -1, -1).tolist() == expected.expand(2, -1, -1).tolist()


def test_a_one_pixel_image_next_to_a_large_image_keeps_one_cell():
    batch = ImageBatch.from_images([torch.zeros(3, 1, 1), torch.zeros(3, 320, 320)])
    for side in (10, 40):
        assert batch.resampled(torch.zeros(2, 1, side, side)).image_sizes == [(1, 1), (side, side)]


def test_gradients_reach_padded_images():
    images = [torch.ones(1, height, 3, requires_grad=True) for height in (2, 4)]
    (2 * ImageBatch.from_images(images).tensor).sum().backward()
    for image in images:
        assert_close(image.grad, torch.full_like(image, 2.0))
