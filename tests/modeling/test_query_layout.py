import copy
import pickle

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import QueryLayout

from .helpers import random_targets

Q, GROUPS, MANY = 3, 2, 4
LAYOUTS = {
    "plain": {},
    "groups": {"num_groups": GROUPS},
    "one2many": {"num_queries_one2many": MANY},
    "both": {"num_groups": GROUPS, "num_queries_one2many": MANY},
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return QueryLayout(Q, **LAYOUTS[request.param])


def learned_rows(layout, training):
    """(branch, group, rank) of each learned row that is in use, by a loop."""
    rows = [("matching", group, rank) for group in range(layout.num_groups) for rank in range(Q)]
    rows += [("one2many", 0, Q + rank) for rank in range(layout.num_queries_one2many)]
    return rows if training else rows[:Q]


def query_rows(layout, proposals, training):
    """(branch, group, rank) of each query when the number of proposals is limited; a query takes that of its rank."""
    return [row for row in learned_rows(layout, training) if row[2] < proposals]


def test_a_layout_counts_learned_queries_and_proposals(layout):
    many = layout.num_queries_one2many
    assert layout.total == Q * layout.num_groups + many
    learned = torch.arange(layout.total)
    assert layout.present(learned, training=True) is learned
    assert layout.present(learned, training=False).tolist() == list(range(Q))
    assert layout.num_proposals(training=True) == Q + many
    assert layout.num_proposals(training=False) == Q


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 5, 7, 99])
def test_queries_take_proposals_and_learned_rows_of_their_rank(layout, training, tokens):
    proposals = min(tokens, layout.num_proposals(training=training))
    values = torch.rand(2, proposals, 5)
    learned = torch.rand(layout.total, 6)
    queries = query_rows(layout, proposals, training)
    rows = [row for row, row_key in enumerate(learned_rows(layout, training)) if row_key in queries]
    actual = layout.of_ranks(learned, proposals, training=training)
    assert actual.shape == (len(queries), 6)
    assert_close(actual, learned[rows], rtol=0, atol=0)
    actual = layout.of_proposals(values, training=training)
    assert actual.shape == (2, len(queries), 5)
    assert_close(actual, values[:, [rank for _, _, rank in queries]], rtol=0, atol=0)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 7, 99])
def test_queries_are_split_into_blocks_for_any_number_of_tokens(layout, tokens):
    proposals = min(tokens, layout.num_proposals(training=True))
    queries = query_rows(layout, proposals, training=True)
    content, reference, position = (torch.rand(2, len(queries), n) for n in (5, 4, 6))
    blocks = layout.blocks(content, reference, position, training=True, num_proposals=proposals)
    many = [row for row, (branch, _, _) in enumerate(queries) if branch == "one2many"]
    matching = [row for row in range(len(queries)) if row not in many]
    expected_rows = {"": matching, "_one2many": many} if layout.num_queries_one2many else {"": matching}
    assert [block.suffix for block in blocks] == list(expected_rows)
    for block in blocks:
        rows = expected_rows[block.suffix]
        assert_close(block.content, content[:, rows], rtol=0, atol=0)
        assert_close(block.reference, reference[:, rows], rtol=0, atol=0)
        assert_close(block.position, position[:, rows], rtol=0, atol=0)
        assert (block.match, block.mask, block.query_weight, block.sees) == (None, None, None, ())
    # All groups have the same number of queries, also with few tokens.
    assert (blocks[0].num_groups, blocks[0].repeats) == (layout.num_groups, layout.num_groups)
    assert blocks[0].size == layout.num_groups * min(Q, proposals)


def test_learned_queries_are_split_into_blocks_by_number(layout):
    content = torch.rand(2, layout.total, 5)
    blocks = layout.blocks(content, None, training=True)
    sizes = [Q * layout.num_groups, layout.num_queries_one2many]
    assert [block.size for block in blocks] == [size for size in sizes if size]
    assert_close(torch.cat([block.content for block in blocks], dim=1), content, rtol=0, atol=0)
    assert all(block.reference is None and block.position is None for block in blocks)


def test_evaluation_has_a_single_block(layout):
    content, reference = torch.rand(2, Q, 5), torch.rand(2, Q, 4)
    (block,) = layout.blocks(content, reference, training=False)
    assert (block.suffix, block.num_groups, block.repeats, block.targets) == ("", 1, 1, None)
    assert block.content is content
    assert block.reference is reference


def test_the_one_to_many_branch_repeats_objects():
    layout = QueryLayout(Q, num_queries_one2many=MANY, one2many_repeats=3, one2many_weight=0.5)
    blocks = layout.blocks(torch.rand(2, layout.total, 5), None, training=True)
    assert [block.weight for block in blocks] == [1.0, 0.5]
    assert (blocks[0].targets, blocks[1].repeats) == (None, 1)
    targets = random_targets([2, 1])
    repeated = blocks[1].targets(targets)
    assert repeated.sizes == [6, 3]
    assert_close(repeated.labels, targets.labels[[0, 1] * 3 + [2] * 3])
    # The function is the same for all batches, so that sets that share it are compared together.
    second_blocks = layout.blocks(torch.rand(2, layout.total, 5), None, training=True)
    assert second_blocks[1].targets is blocks[1].targets


def test_gradients_reach_all_learned_rows(layout):
    learned = torch.rand(layout.total, 6, requires_grad=True)
    layout.of_ranks(learned, layout.num_proposals(training=True), training=True).sum().backward()
    assert_close(learned.grad, torch.ones_like(learned))


def test_a_layout_can_be_copied_and_pickled(layout):
    for copied in (copy.deepcopy(layout), pickle.loads(pickle.dumps(layout))):
        assert copied.total == layout.total
        assert copied.one2many_targets(random_targets([2])).sizes == [12]


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_queries": 0},
        {"num_queries": 3, "num_groups": 0},
        {"num_queries": 3, "num_queries_one2many": -1},
        {"num_queries": 3, "one2many_repeats": 0},
    ],
)
def test_numbers_out_of_range_raise_an_error(arguments):
    name, value = list(arguments.items())[-1]
    with pytest.raises(ValueError, match=f"{name}={value}"):
        QueryLayout(**arguments)
