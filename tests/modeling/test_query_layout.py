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


def learned_places(layout, training):
    """(branch, group, rank) of each learned row that is used, by a loop."""
    places = [("matching", group, rank) for group in range(layout.num_groups) for rank in range(Q)]
    places += [("one2many", 0, Q + rank) for rank in range(layout.num_queries_one2many)]
    return places if training else places[:Q]


def query_places(layout, proposals, training):
    """The same of each query when there are only so many proposals, of which each place takes that of its rank."""
    return [place for place in learned_places(layout, training) if place[2] < proposals]


def test_numbers(layout):
    many = layout.num_queries_one2many
    assert layout.total == Q * layout.num_groups + many
    learned = torch.arange(layout.total)
    assert layout.present(learned, training=True) is learned
    assert layout.present(learned, training=False).tolist() == list(range(Q))
    assert layout.num_proposals(training=True) == Q + many
    assert layout.num_proposals(training=False) == Q


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 5, 7, 99])
def test_proposals_and_ranks_of_any_number_of_tokens(layout, training, tokens):
    proposals = min(tokens, layout.num_proposals(training=training))
    values = torch.rand(2, proposals, 5)
    learned = torch.rand(layout.total, 6)
    places = query_places(layout, proposals, training)
    rows = [row for row, place in enumerate(learned_places(layout, training)) if place in places]
    got = layout.of_ranks(learned, proposals, training=training)
    assert got.shape == (len(places), 6)
    assert_close(got, learned[rows], rtol=0, atol=0)
    got = layout.of_proposals(values, training=training)
    assert got.shape == (2, len(places), 5)
    assert_close(got, values[:, [rank for _, _, rank in places]], rtol=0, atol=0)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 7, 99])
def test_blocks_of_any_number_of_tokens(layout, tokens):
    proposals = min(tokens, layout.num_proposals(training=True))
    places = query_places(layout, proposals, training=True)
    content, reference, position = (torch.rand(2, len(places), n) for n in (5, 4, 6))
    blocks = layout.blocks(content, reference, position, training=True, num_proposals=proposals)
    many = [row for row, (branch, _, _) in enumerate(places) if branch == "one2many"]
    matching = [row for row in range(len(places)) if row not in many]
    wanted = {"": matching, "_one2many": many} if layout.num_queries_one2many else {"": matching}
    assert [block.suffix for block in blocks] == list(wanted)
    for block in blocks:
        rows = wanted[block.suffix]
        assert_close(block.content, content[:, rows], rtol=0, atol=0)
        assert_close(block.reference, reference[:, rows], rtol=0, atol=0)
        assert_close(block.position, position[:, rows], rtol=0, atol=0)
        assert (block.match, block.mask, block.query_weight, block.sees) == (None, None, None, ())
    # Each group has equally many queries, however few tokens there are.
    assert (blocks[0].num_groups, blocks[0].repeats) == (layout.num_groups, layout.num_groups)
    assert blocks[0].size == layout.num_groups * min(Q, proposals)


def test_learned_queries_are_cut_where_their_number_says(layout):
    content = torch.rand(2, layout.total, 5)
    blocks = layout.blocks(content, None, training=True)
    sizes = [Q * layout.num_groups, layout.num_queries_one2many]
    assert [block.size for block in blocks] == [size for size in sizes if size]
    assert_close(torch.cat([block.content for block in blocks], dim=1), content, rtol=0, atol=0)
    assert all(block.reference is None and block.position is None for block in blocks)


def test_there_is_one_block_in_evaluation(layout):
    content, reference = torch.rand(2, Q, 5), torch.rand(2, Q, 4)
    (block,) = layout.blocks(content, reference, training=False)
    assert (block.suffix, block.num_groups, block.repeats, block.targets) == ("", 1, 1, None)
    assert block.content is content
    assert block.reference is reference


def test_the_one_to_many_branch_finds_objects_several_times():
    layout = QueryLayout(Q, num_queries_one2many=MANY, one2many_repeats=3, one2many_weight=0.5)
    blocks = layout.blocks(torch.rand(2, layout.total, 5), None, training=True)
    assert [block.weight for block in blocks] == [1.0, 0.5]
    assert (blocks[0].targets, blocks[1].repeats) == (None, 1)
    targets = random_targets([2, 1])
    repeated = blocks[1].targets(targets)
    assert repeated.sizes == [6, 3]
    assert_close(repeated.labels, targets.labels[[0, 1] * 3 + [2] * 3])
    # One function for all batches, so that sets which share it are compared together.
    again = layout.blocks(torch.rand(2, layout.total, 5), None, training=True)
    assert again[1].targets is blocks[1].targets


def test_gradients_reach_all_that_is_learned(layout):
    learned = torch.rand(layout.total, 6, requires_grad=True)
    layout.of_ranks(learned, layout.num_proposals(training=True), training=True).sum().backward()
    assert_close(learned.grad, torch.ones_like(learned))


def test_it_can_be_copied_and_stored(layout):
    for other in (copy.deepcopy(layout), pickle.loads(pickle.dumps(layout))):
        assert other.total == layout.total
        assert other.one2many_targets(random_targets([2])).sizes == [12]


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_queries": 0},
        {"num_queries": 3, "num_groups": 0},
        {"num_queries": 3, "num_queries_one2many": -1},
        {"num_queries": 3, "one2many_repeats": 0},
    ],
)
def test_numbers_out_of_range_are_refused(arguments):
    name, value = list(arguments.items())[-1]
    with pytest.raises(ValueError, match=f"{name}={value}"):
        QueryLayout(**arguments)
