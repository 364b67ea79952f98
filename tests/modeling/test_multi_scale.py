import torch
from torch.testing import assert_close

from detrex_lite.modeling import TokenLevels, flatten_maps
from detrex_lite.structures import ImageBatch


def maps_of(sizes, *shapes):
    """Maps whose only channel is the token's index in the flattened sequence; sizes: per level and image."""
    maps, first = [], 0
    for (height, width), image_sizes in zip(shapes, sizes, strict=True):
        values = torch.arange(first, first + height * width, dtype=torch.float32).view(1, 1, height, width)
        maps.append(ImageBatch.of_padded(values.repeat(len(image_sizes), 1, 1, 1), image_sizes))
        first += height * width
    return maps


def unpadded_maps():
    """A 2x4 map and a 1x2 map of one image."""
    return maps_of([[(2, 4)], [(1, 2)]], (2, 4), (1, 2))


def padded_maps():
    """The same maps of two images; the second image is smaller and padded."""
    return maps_of([[(2, 4), (1, 2)], [(1, 2), (1, 1)]], (2, 4), (1, 2))


def test_valid_ratios_and_centres_without_padding():
    levels = TokenLevels.from_maps(unpadded_maps())
    assert levels.spatial_shapes == [(2, 4), (1, 2)]
    assert levels.padding is None
    assert_close(levels.valid_ratios, torch.ones(1, 2, 2))
    x, y = [0.125, 0.375, 0.625, 0.875], [0.25, 0.75]
    finest = [[column, row] for row in y for column in x]
    assert_close(levels.centres(), torch.tensor([[*finest, [0.25, 0.5], [0.75, 0.5]]]))


def test_valid_ratios_and_centres_with_padding():
    levels = TokenLevels.from_maps(padded_maps())
    assert levels.spatial_shapes == [(2, 4), (1, 2)]
    is_inside = [[1] * 10, [1, 1, 0, 0, 0, 0, 0, 0, 1, 0]]
    assert_close(levels.padding, ~torch.tensor(is_inside, dtype=torch.bool))
    # Width before height: the second image has 2 of 4 columns and 1 of 2 rows of the first map.
    assert_close(levels.valid_ratios, torch.tensor([[[1.0, 1], [1, 1]], [[0.5, 0.5], [0.5, 1]]]))
    centres = levels.centres()
    assert_close(centres[:1], TokenLevels.from_maps(unpadded_maps()).centres())
    # Relative to the image, its 1x2 cells are halves; padding lies outside 0..1.
    assert_close(centres[1, :4], torch.tensor([[0.25, 0.5], [0.75, 0.5], [1.25, 0.5], [1.75, 0.5]]))
    assert_close(centres[1, 4:8, 1], torch.full((4,), 1.5))
    assert_close(centres[1, 8:], torch.tensor([[0.5, 0.5], [1.5, 0.5]]))


def test_levels_with_and_without_padding_can_be_mixed():
    maps = maps_of([[(2, 4), (2, 3)], [(1, 1), (1, 1)]], (2, 4), (1, 1))
    assert maps[1].mask is None
    levels = TokenLevels.from_maps(maps)
    assert levels.padding.sum(1).tolist() == [0, 2]
    assert not levels.padding[:, -1].any()
    assert_close(levels.valid_ratios, torch.tensor([[[1.0, 1], [1, 1]], [[0.75, 1], [1, 1]]]))


def test_ratios_and_centres_have_the_precision_of_the_model_and_at_least_float32():
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        for maps in (unpadded_maps(), padded_maps()):
            levels = TokenLevels.from_maps(
                [ImageBatch.of_padded(level.tensor.to(dtype), level.image_sizes) for level in maps]
            )
            assert levels.valid_ratios.dtype == levels.centres().dtype == expected


def test_points_are_converted_from_images_to_padded_maps():
    points = torch.tensor([[[0.5, 0.25]], [[0.5, 0.25]]])
    in_maps = TokenLevels.from_maps(padded_maps()).in_maps(points)
    assert_close(in_maps, torch.tensor([[[[0.5, 0.25], [0.5, 0.25]]], [[[0.25, 0.125], [0.25, 0.25]]]]))
    assert_close(TokenLevels.from_maps(unpadded_maps()).in_maps(points), points[:, :, None].expand(2, 1, 2, 2))


def test_boxes_are_converted_from_images_to_padded_maps():
    boxes = torch.tensor([[[0.5, 0.25, 0.2, 0.4]]]).expand(2, 1, 4)
    in_maps = TokenLevels.from_maps(padded_maps()).in_maps(boxes)
    assert in_maps.shape == (2, 1, 2, 4)
    assert_close(in_maps[0, 0], boxes[0].expand(2, 4))
    assert_close(in_maps[1, 0], torch.tensor([[0.25, 0.125, 0.1, 0.2], [0.25, 0.25, 0.1, 0.4]]))


def test_centres_in_padded_maps_are_the_centres_of_cells():
    levels = TokenLevels.from_maps(padded_maps())
    in_all_levels = levels.in_maps(levels.centres())
    in_own_level = in_all_levels[:, torch.arange(10), levels.level_of_tokens()]
    assert_close(in_own_level, TokenLevels.from_maps(unpadded_maps()).centres().expand(2, -1, -1))


def test_level_of_tokens_follows_the_flattening_order():
    assert TokenLevels.from_maps(unpadded_maps()).level_of_tokens().tolist() == [0] * 8 + [1] * 2


def test_tokens_are_ordered_by_level_and_row():
    tokens = flatten_maps([level.tensor for level in padded_maps()])
    assert_close(tokens, torch.arange(10.0)[None, :, None].expand(2, -1, -1))


def test_shared_maps_are_repeated_only_next_to_maps_per_image():
    shared, per_image = torch.ones(1, 3, 2, 2), torch.zeros(2, 3, 1, 2)
    assert flatten_maps([shared, shared]).shape == (1, 8, 3)
    tokens = flatten_maps([per_image, shared])
    assert tokens.shape == (2, 6, 3)
    assert_close(tokens, torch.tensor([0.0, 0, 1, 1, 1, 1])[None, :, None].expand(2, 6, 3))


def test_maps_restores_flattened_maps():
    maps = [torch.randn(2, 3, 2, 4), torch.randn(2, 3, 1, 2)]
    levels = TokenLevels.from_maps(padded_maps())
    for actual, expected in zip(levels.maps(flatten_maps(maps)), maps, strict=True):
        assert_close(actual, expected, rtol=0, atol=0)


def test_as_published_is_inherited_from_the_maps():
    maps = [ImageBatch.of_padded(level.tensor, level.image_sizes, as_published=True) for level in padded_maps()]
    assert TokenLevels.from_maps(maps).as_published
    assert not TokenLevels.from_maps(padded_maps()).as_published
    assert TokenLevels.from_maps([ImageBatch(torch.zeros(1, 1, 2, 2), [(2, 2)], None, as_published=True)]).as_published
