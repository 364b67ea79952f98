import torch
from torch.testing import assert_close

from detrex_lite.modeling import TokenLevels, flatten_maps
from detrex_lite.structures import ImageBatch


def maps_of(sizes, *shapes):
    """Maps of one channel that holds the token's number in the flattened sequence; sizes: per level and image."""
    maps, first = [], 0
    for (height, width), of_images in zip(shapes, sizes, strict=True):
        values = torch.arange(first, first + height * width, dtype=torch.float32).view(1, 1, height, width)
        maps.append(ImageBatch.of_padded(values.repeat(len(of_images), 1, 1, 1), of_images))
        first += height * width
    return maps


def whole():
    """A 2x4 map and a 1x2 map of one image."""
    return maps_of([[(2, 4)], [(1, 2)]], (2, 4), (1, 2))


def padded():
    """The same maps of two images, of which the second fills the left half of the first map."""
    return maps_of([[(2, 4), (1, 2)], [(1, 2), (1, 1)]], (2, 4), (1, 2))


def test_geometry_without_padding():
    levels = TokenLevels.from_maps(whole())
    assert levels.spatial_shapes == [(2, 4), (1, 2)]
    assert levels.padding is None
    assert_close(levels.valid_ratios, torch.ones(1, 2, 2))
    x, y = [0.125, 0.375, 0.625, 0.875], [0.25, 0.75]
    finest = [[one_x, one_y] for one_y in y for one_x in x]
    assert_close(levels.centres(), torch.tensor([[*finest, [0.25, 0.5], [0.75, 0.5]]]))


def test_geometry_with_padding():
    levels = TokenLevels.from_maps(padded())
    assert levels.spatial_shapes == [(2, 4), (1, 2)]
    inside = [[1] * 10, [1, 1, 0, 0, 0, 0, 0, 0, 1, 0]]
    assert_close(levels.padding, ~torch.tensor(inside, dtype=torch.bool))
    # Width before height: of the first map the second image has 2 of 4 columns and 1 of 2 rows.
    assert_close(levels.valid_ratios, torch.tensor([[[1.0, 1], [1, 1]], [[0.5, 0.5], [0.5, 1]]]))
    centres = levels.centres()
    assert_close(centres[:1], TokenLevels.from_maps(whole()).centres())
    # In the image's own frame its 1x2 cells are halves of it; padding lies outside of 0..1.
    assert_close(centres[1, :4], torch.tensor([[0.25, 0.5], [0.75, 0.5], [1.25, 0.5], [1.75, 0.5]]))
    assert_close(centres[1, 4:8, 1], torch.full((4,), 1.5))
    assert_close(centres[1, 8:], torch.tensor([[0.5, 0.5], [1.5, 0.5]]))


def test_a_level_without_padding_among_levels_with_padding():
    maps = maps_of([[(2, 4), (2, 3)], [(1, 1), (1, 1)]], (2, 4), (1, 1))
    assert maps[1].mask is None
    levels = TokenLevels.from_maps(maps)
    assert levels.padding.sum(1).tolist() == [0, 2]
    assert not levels.padding[:, -1].any()
    assert_close(levels.valid_ratios, torch.tensor([[[1.0, 1], [1, 1]], [[0.75, 1], [1, 1]]]))


def test_geometry_has_the_precision_of_the_model_and_float32_at_least():
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        for maps in (whole(), padded()):
            levels = TokenLevels.from_maps(
                [ImageBatch.of_padded(one.tensor.to(dtype), one.image_sizes) for one in maps]
            )
            assert levels.valid_ratios.dtype == levels.centres().dtype == expected


def test_points_of_images_become_points_of_padded_maps():
    points = torch.tensor([[[0.5, 0.25]], [[0.5, 0.25]]])
    inside = TokenLevels.from_maps(padded()).in_maps(points)
    assert_close(inside, torch.tensor([[[[0.5, 0.25], [0.5, 0.25]]], [[[0.25, 0.125], [0.25, 0.25]]]]))
    assert_close(TokenLevels.from_maps(whole()).in_maps(points), points[:, :, None].expand(2, 1, 2, 2))


def test_boxes_of_images_become_boxes_of_padded_maps():
    boxes = torch.tensor([[[0.5, 0.25, 0.2, 0.4]]]).expand(2, 1, 4)
    inside = TokenLevels.from_maps(padded()).in_maps(boxes)
    assert inside.shape == (2, 1, 2, 4)
    assert_close(inside[0, 0], boxes[0].expand(2, 4))
    assert_close(inside[1, 0], torch.tensor([[0.25, 0.125, 0.1, 0.2], [0.25, 0.25, 0.1, 0.4]]))


def test_centres_in_maps_are_the_centres_of_cells_with_any_padding():
    levels = TokenLevels.from_maps(padded())
    both = levels.in_maps(levels.centres())
    own = both[:, torch.arange(10), levels.level_of_tokens()]
    assert_close(own, TokenLevels.from_maps(whole()).centres().expand(2, -1, -1))


def test_level_of_tokens():
    assert TokenLevels.from_maps(whole()).level_of_tokens().tolist() == [0] * 8 + [1] * 2


def test_tokens_are_in_the_order_of_rows_and_levels():
    tokens = flatten_maps([one.tensor for one in padded()])
    assert_close(tokens, torch.arange(10.0)[None, :, None].expand(2, -1, -1))


def test_maps_that_all_images_share_are_repeated_only_where_others_are_not_shared():
    shared, own = torch.ones(1, 3, 2, 2), torch.zeros(2, 3, 1, 2)
    assert flatten_maps([shared, shared]).shape == (1, 8, 3)
    tokens = flatten_maps([own, shared])
    assert tokens.shape == (2, 6, 3)
    assert_close(tokens, torch.tensor([0.0, 0, 1, 1, 1, 1])[None, :, None].expand(2, 6, 3))


def test_tokens_become_maps_again():
    maps = [torch.randn(2, 3, 2, 4), torch.randn(2, 3, 1, 2)]
    levels = TokenLevels.from_maps(padded())
    for got, want in zip(levels.maps(flatten_maps(maps)), maps, strict=True):
        assert_close(got, want, rtol=0, atol=0)


def test_what_modules_do_with_padding_is_that_of_the_maps():
    maps = [ImageBatch.of_padded(one.tensor, one.image_sizes, as_published=True) for one in padded()]
    assert TokenLevels.from_maps(maps).as_published
    assert not TokenLevels.from_maps(padded()).as_published
    assert TokenLevels.from_maps([ImageBatch(torch.zeros(1, 1, 2, 2), [(2, 2)], None, as_published=True)]).as_published
