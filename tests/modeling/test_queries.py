import copy
import itertools
import pickle

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import LayerOutput, Match, Queries, QueryBlock, Targets

CHANNELS = 3


def block(suffix, size, *, reference=4, batch=2, **fields):
    """A block of random queries; `reference` is the number of coordinates, 0 for no references."""
    generator = torch.Generator().manual_seed(size + len(suffix))
    content = torch.rand(batch, size, CHANNELS, generator=generator)
    boxes = torch.rand(batch, size, reference, generator=generator) if reference else None
    return QueryBlock(suffix, content, boxes, **fields)


def random_mask(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def layer_of(queries, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = queries.content.shape[:2]
    logits, boxes, masks = (torch.rand(*shape, *n, generator=generator) for n in ((5,), (4,), (2, 3)))
    return LayerOutput(logits, boxes, {"masks": masks})


def attention_in_a_loop(blocks, batch):
    """(B, Q, Q) bool by a loop over pairs, True = attended."""
    block_queries = [(query_block, index) for query_block in blocks for index in range(query_block.size)]
    sees = torch.zeros(batch, len(block_queries), len(block_queries), dtype=torch.bool)
    for image in range(batch):
        for (row, (query_block, i)), (column, (key_block, j)) in itertools.product(enumerate(block_queries), repeat=2):
            if query_block.suffix != key_block.suffix:
                sees[image, row, column] = key_block.suffix in query_block.sees
            elif query_block.mask is not None:
                mask = query_block.mask if query_block.mask.dim() == 2 else query_block.mask[image]
                sees[image, row, column] = not mask[i, j]
            else:
                size = query_block.size // query_block.num_groups
                sees[image, row, column] = i // size == j // size
            if key_block.padding is not None and key_block.padding[image, j] and row != column:
                sees[image, row, column] = False
    return sees


def actual_attention(queries):
    """(B, Q, Q) bool, from the mask or from the groups that are folded into the batch, True = attended."""
    batch, total = queries.content.shape[:2]
    if queries.num_groups > 1:
        assert queries.attn_mask is None
        group = torch.arange(total) // (total // queries.num_groups)
        return (group == group[:, None]).expand(batch, -1, -1)
    if queries.attn_mask is None:
        return torch.ones(batch, total, total, dtype=torch.bool)
    return (~queries.attn_mask).expand(batch, -1, -1)


# Joining and splitting


def test_blocks_are_joined_in_their_order():
    first, second = block("_dn*", 3, position=torch.rand(2, 3, 6)), block("", 4, position=torch.rand(2, 4, 6))
    queries = Queries([None, first, None, second])
    assert [joined_block.suffix for joined_block in queries.blocks] == ["_dn*", ""]
    for name in ("content", "reference", "position"):
        joined = getattr(queries, name)
        assert_close(joined[:, :3], getattr(first, name), rtol=0, atol=0)
        assert_close(joined[:, 3:], getattr(second, name), rtol=0, atol=0)


def test_a_single_block_is_not_copied():
    single_block = block("", 4)
    queries = Queries([single_block, None])
    assert queries.content is single_block.content
    assert queries.reference is single_block.reference
    assert queries.position is None
    assert (queries.attn_mask, queries.num_groups) == (None, 1)


@pytest.mark.parametrize("sizes", [(3, 4), (0, 4), (3, 4, 1), (4,)])
@pytest.mark.parametrize("aux_loss", [True, False])
def test_outputs_are_split_into_the_joined_blocks(sizes, aux_loss):
    blocks = [block(suffix, size) for suffix, size in zip(("_dn*", "", "_one2many"), sizes[-3:], strict=False)]
    queries = Queries(blocks)
    layers = [layer_of(queries, seed) for seed in range(3)]
    predictions = queries.split(layers, aux_loss=aux_loss)
    numbers = ["", "_0", "_1"] if aux_loss else [""]
    expected = {"_dn*": [f"_dn{n}" for n in numbers], "": numbers, "_one2many": [f"{n}_one2many" for n in numbers]}
    assert list(predictions) == [name for part in blocks for name in expected[part.suffix]]
    for index, layer in enumerate(layers if aux_loss else layers[-1:]):
        number = "" if layer is layers[-1] else f"_{index}"
        names = {"_dn*": f"_dn{number}", "": number, "_one2many": f"{number}_one2many"}
        layer_predictions = [predictions[names[part.suffix]] for part in blocks]
        assert [part.logits.shape[1] for part in layer_predictions] == list(sizes)
        assert_close(torch.cat([part.logits for part in layer_predictions], 1), layer.logits, rtol=0, atol=0)
        assert_close(torch.cat([part.boxes for part in layer_predictions], 1), layer.boxes, rtol=0, atol=0)
        masks = torch.cat([part.extra["masks"] for part in layer_predictions], 1)
        assert_close(masks, layer.extra["masks"], rtol=0, atol=0)


def test_predictions_inherit_matching_and_weights_from_their_block():
    targets = Targets(torch.zeros(1, dtype=torch.int64), torch.rand(1, 4), [1, 0])
    match = Match(*torch.zeros(3, 1, dtype=torch.int64))
    weight = torch.rand(2, 4)
    blocks = [
        block("", 6, num_groups=2, repeats=2),
        block("_dn*", 4, targets=targets, match=match, repeats=3, weight=0.5, query_weight=weight, num_groups=2),
    ]
    predictions_by_name = Queries(blocks).split([layer_of(Queries(blocks), seed) for seed in range(2)])
    for name in ("", "_0"):
        prediction = predictions_by_name[name]
        assert (
            prediction.targets,
            prediction.match,
            prediction.num_groups,
            prediction.repeats,
            prediction.weight,
        ) == (None, None, 2, 2, 1.0)
        assert prediction.query_weight is None
    for name in ("_dn", "_dn_0"):
        prediction = predictions_by_name[name]
        assert prediction.targets is targets
        assert prediction.match is match
        assert prediction.query_weight is weight
        # A block that is already matched has no groups to match.
        assert (prediction.num_groups, prediction.repeats, prediction.weight) == (1, 3, 0.5)


def test_gradients_of_predictions_reach_their_block_only():
    first, second = block("_dn*", 3), block("", 4)
    for query_block in (first, second):
        query_block.content.requires_grad_()
    queries = Queries([first, second])
    logits = queries.content * 2
    predictions = queries.split([LayerOutput(logits, queries.reference, {})])
    predictions["_dn"].logits.sum().backward()
    assert_close(first.content.grad, torch.full_like(first.content, 2.0))
    assert not second.content.grad.any()


# Attention between blocks

MASKED = {
    "denoising": [("_dn*", 4, {"sees": ("",), "mask": random_mask(4, 4)}), ("", 5, {})],
    "denoising of each image": [("_dn*", 4, {"sees": ("",), "mask": random_mask(2, 4, 4)}), ("", 5, {})],
    "two masks": [("_a", 2, {"mask": random_mask(2, 2)}), ("_b", 3, {"mask": random_mask(2, 3, 3)}), ("", 4, {})],
    "both see each other": [("_a", 2, {"sees": ("",)}), ("", 3, {"sees": ("_a",)})],
    "groups and a block of another size": [("", 6, {"num_groups": 2}), ("_one2many", 4, {})],
    "groups and denoising": [("_dn*", 3, {"sees": ("",), "mask": random_mask(3, 3)}), ("", 6, {"num_groups": 3})],
    "groups that see another block and are seen by it": [
        ("", 4, {"num_groups": 2, "sees": ("_b",)}),
        ("_b", 2, {"sees": ("",)}),
    ],
    "no denoising queries": [("_dn*", 0, {"sees": ("",), "mask": random_mask(0, 0)}), ("", 4, {})],
    "a masked block": [("", 4, {"mask": random_mask(4, 4)})],
    "a block with a mask for each image": [("", 4, {"mask": random_mask(2, 4, 4)})],
    "a mask instead of groups": [("", 4, {"num_groups": 2, "mask": random_mask(4, 4)})],
    "a mask, and blocks of its size": [
        ("_a", 4, {"mask": random_mask(4, 4)}),
        ("", 4, {}),
        ("_b", 8, {"num_groups": 2}),
    ],
    "two blocks of different sizes": [("_a", 2, {}), ("", 3, {})],
    "an empty block": [("_a", 0, {}), ("", 3, {})],
    "padding": [("", 4, {"padding": random_mask(2, 4)})],
    "padding in groups": [("", 6, {"num_groups": 2, "padding": random_mask(2, 6)})],
    "padding in one of two blocks": [("_a", 3, {"padding": random_mask(2, 3), "sees": ("",)}), ("", 3, {})],
    "padding in a masked block": [("", 4, {"padding": random_mask(2, 4), "mask": random_mask(4, 4, seed=1)})],
    "a block of padding only": [("", 3, {}), ("_b", 2, {"padding": torch.ones(2, 2, dtype=torch.bool)})],
}
FOLDED = {
    "groups": (3, [("", 6, {"num_groups": 3})]),
    "groups and a block of their size": (4, [("", 6, {"num_groups": 3}), ("_b", 2, {})]),
    "two blocks with groups of the same size": (5, [("", 6, {"num_groups": 3}), ("_b", 4, {"num_groups": 2})]),
    "two blocks of the same size": (2, [("_a", 3, {}), ("", 3, {})]),
}


@pytest.mark.parametrize("case", MASKED)
def test_masks_agree_with_a_loop_over_pairs(case):
    blocks = [block(suffix, size, **fields) for suffix, size, fields in MASKED[case]]
    queries = Queries(blocks)
    assert queries.num_groups == 1
    assert queries.attn_mask.dtype == torch.bool
    assert_close(actual_attention(queries), attention_in_a_loop(blocks, 2))
    per_image = any(part.padding is not None or (part.mask is not None and part.mask.dim() == 3) for part in blocks)
    assert queries.attn_mask.dim() == 2 + per_image


@pytest.mark.parametrize("case", FOLDED)
def test_groups_of_the_same_size_are_folded_into_the_batch(case):
    number, specifications = FOLDED[case]
    blocks = [block(suffix, size, **fields) for suffix, size, fields in specifications]
    queries = Queries(blocks)
    assert (queries.num_groups, queries.attn_mask) == (number, None)
    assert_close(actual_attention(queries), attention_in_a_loop(blocks, 2))


def test_the_mask_of_a_block_is_kept_when_blocks_are_joined():
    mask = random_mask(4, 4)
    for other_blocks in ([], [block("_b", 3)], [block("_b", 4)], [block("_b", 3, sees=("",)), block("_c", 2)]):
        queries = Queries([block("", 4, mask=mask), *other_blocks])
        assert_close(queries.attn_mask[:4, :4], mask)
        assert queries.attn_mask[:4, 4:].all()


@pytest.mark.parametrize("seed", range(20))
def test_masks_of_random_blocks_agree_with_a_loop_over_pairs(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(high):
        return int(torch.randint(high, (), generator=generator))

    suffixes = ["", "_a", "_b"][: 1 + draw(3)]
    blocks = []
    for suffix in suffixes:
        groups = 1 + draw(3)
        size = groups * (1 + draw(2))
        shapes = [None, None, (size, size), (2, size, size)]
        shape = shapes[draw(4)]
        sees = tuple(suffix_of_other for suffix_of_other in suffixes if suffix_of_other != suffix and draw(4) == 0)
        mask = None if shape is None else random_mask(*shape, seed=seed)
        blocks.append(block(suffix, size, num_groups=groups, sees=sees, mask=mask))
    queries = Queries(blocks)
    assert_close(actual_attention(queries), attention_in_a_loop(blocks, 2))


def test_masks_of_blocks_are_not_modified():
    mask = random_mask(4, 4)
    before = mask.clone()
    Queries([block("_dn*", 4, mask=mask, sees=("",)), block("", 2)])
    assert_close(mask, before)


def test_queries_can_be_copied_and_pickled():
    queries = Queries([block("_dn*", 4, mask=random_mask(4, 4), sees=("",)), block("", 2)])
    for copied in (copy.deepcopy(queries), pickle.loads(pickle.dumps(queries))):
        assert_close(copied.attn_mask, queries.attn_mask)
        assert_close(copied.content, queries.content)
        assert [copied_block.suffix for copied_block in copied.blocks] == ["_dn*", ""]


# Errors


def test_errors():
    for blocks, message in (
        ([], "at least one block"),
        ([None], "at least one block"),
        ([block("", 2), block("", 3)], "the same suffix"),
        ([block("", 2, sees=("_dn",)), block("_dn*", 3)], "'' see '_dn', .*'_dn\\*'"),
        ([block("", 7, num_groups=2)], "7 queries '' cannot be divided.*num_groups=2"),
        ([block("", 2), block("_dn*", 3, reference=0)], "1 of 2 .* reference"),
        ([block("", 2, position=torch.zeros(2, 2, 3)), block("_dn*", 3)], "1 of 2 .* position"),
    ):
        with pytest.raises(ValueError, match=message):
            Queries(blocks)
