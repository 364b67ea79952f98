import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.modeling import DetectionHeads, QueryLayout, ReparamHeads
from detrex_lite.modeling.deformable import GroupedAnchorQueries, gather_tokens

from .test_deformable_queries import CLASSES, C, memory_of

Q, GROUPS = 3, 3


def build(**layout):
    torch.manual_seed(0)
    queries = GroupedAnchorQueries(layout=QueryLayout(Q, **{"num_groups": GROUPS, **layout}), embed_dim=C)
    nn.init.normal_(queries.box_offsets.weight, std=0.3)
    return queries.double()


def heads_of(kind=ReparamHeads):
    torch.manual_seed(1)
    heads = kind(
        embed_dim=C,
        num_classes=CLASSES,
        num_layers=2,
        with_box_refine=True,
        for_encoder=True,
        encoder_groups=GROUPS,
    )
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.5)
    return heads.double()


@pytest.mark.parametrize("kind", [DetectionHeads, ReparamHeads])
@pytest.mark.parametrize("training", [True, False])
def test_each_group_starts_from_its_own_proposals(kind, training):
    queries, heads, memory = build(), heads_of(kind), memory_of(batch=1)
    (block,), proposals = queries(memory, heads, training=training)
    number = GROUPS if training else 1
    assert block.num_groups == block.repeats == number
    assert (proposals is not None) == training
    assert_close(block.content, queries.content.weight[None, : number * Q])
    best_of_groups = []
    for group in range(number):
        module = queries.group_proposals[str(group)] if group else queries.proposals
        output = heads.propose(*module(memory), group=group)
        best = output.logits.max(-1).values.topk(Q, 1).indices
        boxes = gather_tokens(output.boxes, best)
        best_of_groups.append(best)
        rows = slice(group * Q, (group + 1) * Q)
        assert_close(block.reference[:, rows], heads.boxes(queries.box_offsets.weight[None, rows], boxes))
        if training:
            assert_close(proposals.boxes[:, rows], boxes)
            assert_close(proposals.logits[:, rows], gather_tokens(output.logits, best))
    if training:
        assert proposals.num_groups == proposals.repeats == GROUPS
        assert not torch.equal(best_of_groups[0], best_of_groups[1])


def test_references_train_the_offsets_and_not_the_proposals():
    queries, heads = build(), heads_of()
    (block,), proposals = queries(memory_of(batch=1), heads, training=True)
    block.reference.sum().backward()
    assert queries.box_offsets.weight.grad.all()
    trained = {
        name
        for name, parameter in [*queries.named_parameters(), *heads.named_parameters()]
        if parameter.grad is not None
    }
    assert trained == {"box_offsets.weight"}
    (proposals.boxes.sum() + proposals.logits.sum()).backward()
    group_parameters = [*queries.group_proposals.parameters(), *heads.group_heads.parameters()]
    assert all(parameter.grad is not None for parameter in group_parameters)


@pytest.mark.parametrize("training", [True, False])
def test_the_number_of_queries_is_limited_by_the_number_of_tokens(training):
    queries = build()
    (block,), _ = queries(memory_of(1, 2, batch=1), heads_of(), training=training)
    rows = [group * Q + rank for group in range(GROUPS if training else 1) for rank in range(2)]
    assert_close(block.content[0], queries.content.weight[rows])
    assert block.reference.shape == (1, len(rows), 4)


def test_queries_without_a_token_are_padding():
    (block,), _ = build()(memory_of(2, 2), heads_of(), training=False)
    assert block.padding.tolist() == [[False] * 3, [False, True, True]]
    (block,), _ = build()(memory_of(2, 2, as_published=True), heads_of(), training=True)
    assert block.padding is None


def test_one_group_needs_no_group_proposals():
    queries = build(num_groups=1)
    assert not queries.group_proposals
    assert queries(memory_of(), heads_of(), training=True).blocks[0].num_groups == 1


def test_a_one_to_many_branch_raises_an_error():
    with pytest.raises(ValueError, match=r"num_queries_one2many=4.*AnchorQueries"):
        build(num_queries_one2many=4)
