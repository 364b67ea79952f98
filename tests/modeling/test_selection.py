"""Selection of proposals as queries, compared with loops."""

import pytest
import torch
from torchvision.ops import box_iou

from detrex_lite.modeling import TokenLevels
from detrex_lite.modeling.deformable import DistinctProposals, LevelwiseNMS, topk_tokens
from detrex_lite.structures import ImageBatch, box_cxcywh_to_xyxy

SHAPES = [(6, 8), (3, 4), (2, 2)]


def make_levels(*sizes, as_published=False):
    """Levels of images whose sizes are in cells of the finest level."""
    maps = []
    for height, width in SHAPES:
        images = [torch.zeros(1, max(round(h * height / 6), 1), max(round(w * width / 8), 1)) for h, w in sizes]
        maps.append(ImageBatch.from_images(images, as_published=as_published))
    return TokenLevels.from_maps(maps)


def make_proposals(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    number = sum(height * width for height, width in SHAPES)
    boxes = torch.rand(batch, number, 4, generator=generator) * 0.3 + 0.35
    return torch.randn(batch, number, generator=generator), boxes


def greedy_nms(order, boxes, threshold):
    corners, kept = box_cxcywh_to_xyxy(boxes).clamp(0, 1), []
    for token in order:
        if all(box_iou(corners[[kept_token]], corners[[token]]) <= threshold for kept_token in kept):
            kept.append(token)
    return kept


def levelwise_in_a_loop(scores, boxes, number, threshold, per_level):
    by_score = scores.argsort(descending=True).tolist()
    level_of = [level for level, (height, width) in enumerate(SHAPES) for _ in range(height * width)]
    considered = []
    for level in range(len(SHAPES)):
        considered += [token for token in by_score if level_of[token] == level][:per_level]
    unconsidered = [token for token in by_score if token not in considered]
    considered += unconsidered[: per_level * len(SHAPES) - len(considered)]
    kept = []
    for level in range(len(SHAPES)):
        level_tokens = [token for token in by_score if level_of[token] == level and token in considered]
        kept += greedy_nms(level_tokens, boxes, threshold)
    kept.sort(key=by_score.index)
    if len(kept) < number:
        return by_score[:number]
    chosen = []
    for level in range(len(SHAPES)):
        chosen += [token for token in kept if level_of[token] == level][: number // len(SHAPES)]
    chosen += [token for token in kept if token not in chosen][: number - len(chosen)]
    return sorted(chosen, key=by_score.index)


@pytest.mark.parametrize(
    ("number", "threshold", "per_level"),
    [(9, 0.5, 100), (9, 0.7, 10), (14, 0.6, 100), (40, 0.5, 100), (30, 0.9, 10), (12, 0.9, 4)],
)
def test_levelwise_nms_agrees_with_a_loop_over_levels(number, threshold, per_level):
    levels, (scores, boxes) = make_levels((6, 8), (6, 8)), make_proposals(2)
    chosen = LevelwiseNMS(threshold, per_level)(scores, boxes, number, levels)
    for image in range(2):
        assert chosen[image].tolist() == levelwise_in_a_loop(scores[image], boxes[image], number, threshold, per_level)


@pytest.mark.parametrize(("number", "threshold", "per_level"), [(9, 0.5, 100), (9, 0.7, 48), (40, 0.5, 100)])
def test_levelwise_nms_as_published_agrees_with_the_loop_if_no_level_is_cut(number, threshold, per_level):
    scores, boxes = make_proposals(2)
    levels = make_levels((6, 8), (6, 8), as_published=True)
    chosen = LevelwiseNMS(threshold, per_level)(scores, boxes, number, levels)
    for image in range(2):
        assert chosen[image].tolist() == levelwise_in_a_loop(scores[image], boxes[image], number, threshold, per_level)


def test_levelwise_nms_as_published_fills_up_levels_after_their_best_tokens():
    scores, boxes = make_proposals(2)
    levels = make_levels((6, 8), (6, 8), as_published=True)
    # The selection has 37 tokens of the finest level, and all 16 other tokens.
    chosen = LevelwiseNMS(0.999, 37)(scores, boxes, 53, levels)
    best = topk_tokens(scores[:, :48], 37, make_levels((6, 8)))
    for image in range(2):
        assert sorted(chosen[image].tolist()) == sorted([*best[image].tolist(), *range(48, 64)])
        assert scores[image, chosen[image]].diff().le(0).all()


def test_all_levels_get_the_same_number_of_queries():
    levels, (scores, boxes) = make_levels((6, 8)), make_proposals(1)
    scores[:, :48] += 100  # by scores alone, all tokens would be of the finest level
    level = levels.level_of_tokens()[LevelwiseNMS(0.99)(scores, boxes, 9, levels)[0]]
    assert sorted(level.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert not levels.level_of_tokens()[topk_tokens(scores, 9, levels)].any()


def test_the_best_tokens_are_selected_if_too_few_remain():
    levels, (scores, _) = make_levels((6, 8)), make_proposals(1)
    identical_boxes = torch.full((1, 64, 4), 0.5)
    assert torch.equal(LevelwiseNMS(0.9)(scores, identical_boxes, 5, levels), topk_tokens(scores, 5, levels))


def test_levels_must_have_enough_candidates():
    levels, proposals = make_levels((6, 8)), make_proposals(1)
    with pytest.raises(ValueError, match="7 queries .*num_per_level=2.*3 levels"):
        LevelwiseNMS(0.9, 2)(*proposals, 7, levels)


@pytest.mark.parametrize("number", [5, 50])
def test_distinct_proposals_agree_with_a_loop_and_are_followed_by_the_best_duplicates(number):
    levels, (scores, boxes) = make_levels((6, 8), (6, 8)), make_proposals(2)
    chosen = DistinctProposals(0.5)(scores, boxes, number, levels)
    for image in range(2):
        by_score = scores[image].argsort(descending=True).tolist()
        corners, kept = box_cxcywh_to_xyxy(boxes[image]), []
        for token in by_score:
            if all(box_iou(corners[[kept_token]], corners[[token]]) <= 0.5 for kept_token in kept):
                kept.append(token)
        assert 5 < len(kept) < 50
        expected = kept + [token for token in by_score if token not in kept]
        assert chosen[image].tolist() == expected[:number]


@pytest.mark.parametrize("selection", [LevelwiseNMS(0.6, 30), DistinctProposals(0.6)])
def test_selections_do_not_depend_on_padding(selection):
    scores, boxes = make_proposals(2)
    padded_levels = make_levels((6, 8), (4, 4))
    chosen = selection(scores, boxes, 9, padded_levels)
    padding = padded_levels.padding[1]
    assert not padding[chosen[1]].any()
    shapes = [(4, 4), (2, 2), (1, 1)]
    unpadded_levels = TokenLevels(shapes, None, torch.ones(1, 3, 2))
    kept = (~padding).nonzero().flatten()
    assert len(kept) == sum(height * width for height, width in shapes)
    expected = selection(scores[1:, kept], boxes[1:, kept], 9, unpadded_levels)
    assert torch.equal(kept[expected[0]], chosen[1])
