import pytest
import torch
from torch.testing import assert_close

from detrex_lite.layers import get_sine_pos_embed
from detrex_lite.modeling.collaborative import (
    BACKGROUND,
    NEITHER,
    Candidates,
    CollaborativeHeads,
    HeadResult,
    PositiveQueries,
)

from .pyramids import SIZES, make_pyramid, make_targets

C = 32


def candidates(*assigned, seed=0):
    """Random candidates of each image, with boxes in pixels and the given assignments."""
    generator, result = torch.Generator().manual_seed(seed), []
    for assignment in assigned:
        low = torch.rand(len(assignment), 2, generator=generator, dtype=torch.float64) * 30
        boxes = torch.cat([low, low + 5 + low.flip(0)], dim=1)
        features = torch.randn(len(assignment), C, generator=generator, dtype=torch.float64)
        result.append(Candidates(boxes, torch.tensor(assignment, dtype=torch.int64), features))
    return result


def positive_queries(**options):
    torch.manual_seed(0)
    return PositiveQueries(embed_dim=C, **options).double()


ASSIGNED = ([0, BACKGROUND, 2, NEITHER, 0], [BACKGROUND] * 3 + [1])


def test_positive_queries_start_at_their_boxes_and_match_their_objects():
    given_candidates, targets = candidates(*ASSIGNED), make_targets((3, 2))
    block = positive_queries(min_queries=1)("_atss", given_candidates, make_pyramid(), targets, 0.5)
    assert (block.suffix, block.weight, block.padding, block.sees) == ("_atss", 0.5, None, ())
    expected = [(0, 0, 0), (0, 2, 2), (0, 4, 0), (1, 3, 4)]  # image, candidate, object of the batch
    slots = [0, 1, 2, 0]
    assert block.match.image.tolist() == [image for image, _, _ in expected]
    assert block.match.query.tolist() == slots
    assert block.match.target.tolist() == [0, 1, 2, 3]
    assert block.targets.sizes == block.match.sizes == [3, 1]
    for number, (image, candidate, owner) in enumerate(expected):
        height, width = SIZES[image]
        x0, y0, x1, y1 = given_candidates[image].boxes[candidate].tolist()
        box = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
        assert_close(block.reference[image, slots[number]], torch.tensor(box, dtype=torch.float64))
        assert_close(block.targets.boxes[number], targets.boxes[owner])
        assert block.targets.labels[number] == targets.labels[owner]


def test_images_with_fewer_positives_are_filled_with_background():
    given_candidates = candidates(*ASSIGNED)
    block = positive_queries(min_queries=1)("_rcnn", given_candidates, make_pyramid(), make_targets((3, 2)))
    boxes = [make_pyramid().normalised(candidate.boxes, image) for image, candidate in enumerate(given_candidates)]
    filled = {tuple(box) for box in block.reference[1, 1:].tolist()}
    assert len(filled) == 2
    assert filled <= {tuple(box) for box in boxes[1][:3].tolist()}


def test_images_without_enough_background_are_padded():
    block = positive_queries(min_queries=5)("_rcnn", candidates(*ASSIGNED), make_pyramid(), make_targets((3, 2)))
    assert block.content.shape == (2, 5, C)
    assert block.padding.tolist() == [[False] * 4 + [True], [False] * 4 + [True]]
    block = positive_queries(min_queries=2, fill_with_background=False)(
        "_rcnn", candidates(*ASSIGNED), make_pyramid(), make_targets((3, 2))
    )
    assert block.padding.tolist() == [[False, False, False], [False, True, True]]


def test_positives_above_the_limit_are_sampled():
    given_candidates, boxes_drawn = candidates([0] * 40, [BACKGROUND] * 40), set()
    queries = positive_queries(max_queries=6)
    for seed in range(3):
        torch.manual_seed(seed)
        block = queries("_atss", given_candidates, make_pyramid(), make_targets((1, 0)))
        assert block.content.shape == (2, 6, C)
        assert block.targets.sizes == [6, 0]
        boxes_drawn |= {tuple(box) for box in block.reference[0].tolist()}
    assert len(boxes_drawn) > 6


def test_images_without_candidates_give_padding():
    block = positive_queries()("_rcnn", candidates([], []), make_pyramid(), make_targets((0, 0)))
    assert block.padding.all()
    assert block.content.shape == (2, 9, C)
    assert len(block.match.query) == len(block.targets) == 0


@pytest.mark.parametrize("with_positions", [False, True])
@pytest.mark.parametrize("with_features", [False, True])
def test_contents_and_positions_follow_the_formula(with_positions, with_features):
    queries = positive_queries(with_positions=with_positions, with_features=with_features, min_queries=1)
    given_candidates = candidates([0], [1])
    block = queries("_atss", given_candidates, make_pyramid(), make_targets((1, 2)))
    sine = get_sine_pos_embed(block.reference.clamp(0, 1), C // 2, exchange_xy=False)
    assert_close(sine[..., : C // 2], get_sine_pos_embed(block.reference[..., :1].clamp(0, 1), C // 2))  # x first
    expected = queries.pos_trans_norm(queries.pos_trans(sine))
    position, content = expected.chunk(2, dim=-1) if with_positions else (None, expected)
    if with_features:
        features = torch.stack([candidate.features[:1] for candidate in given_candidates])
        content = content + queries.feature_trans_norm(queries.feature_trans(features))
        position = None if position is None else position + queries.head_embed
    assert_close(block.content, content)
    if with_positions:
        assert_close(block.position, position)
    else:
        assert block.position is None


class FakeHead(torch.nn.Module):
    def forward(self, pyramid, targets):
        assert [level.shape[-2:] for level in pyramid.maps] == [(8, 12), (4, 6), (2, 3), (1, 2)]
        assert pyramid.strides == [8, 16, 32, 64]
        return HeadResult({"class": torch.tensor(2.0)}, candidates([0], [BACKGROUND]))


def collaboration(**options):
    settings = {
        "heads": {"a": FakeHead(), "b": FakeHead()},
        "queries": {"a": positive_queries(), "b": positive_queries()},
        **options,
    }
    return CollaborativeHeads(embed_dim=C, finest_stride=8, num_layers=6, **settings).double()


def test_losses_of_heads_count_for_every_decoder_layer():
    maps = make_pyramid().maps
    blocks, losses = collaboration(head_weight=2.0, query_weight=0.5)(maps, SIZES, make_targets((1, 0)))
    assert losses == {"loss_a_head_class": 24.0, "loss_b_head_class": 24.0}
    assert [(block.suffix, block.weight) for block in blocks] == [("_a", 0.5), ("_b", 0.5)]
    blocks, losses = collaboration(queries=None, head_weight=0.5)(maps, SIZES, make_targets((1, 0)))
    assert blocks == []
    assert losses["loss_a_head_class"] == 6.0


def test_max_queries_of_zero_raises_an_error():
    with pytest.raises(ValueError, match="max_queries=0.*queries=null"):
        positive_queries(max_queries=0)


def test_heads_and_queries_must_have_the_same_names():
    with pytest.raises(ValueError, match="heads are a, b, but queries .* a:"):
        collaboration(queries={"a": positive_queries()})
    with pytest.raises(ValueError, match="model.collaboration=null"):
        collaboration(heads={}, queries={})
