"""Recollection: in training, layers also decode outputs of stages before the previous one."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.modeling import (
    DistributionHeads,
    EdgeBins,
    Memory,
    PositionRelation,
    Queries,
    selective_recollection,
)

from .test_decoder import HEADS, LAYERS, C, block_of, build, heads_of

PAPER = [[0], [0, 1], [1, 2], [2, 3]]


@pytest.fixture
def memory():
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    return Memory(torch.randn(2, 7, C, dtype=torch.float64), torch.randn(1, 7, C, dtype=torch.float64), padding)


def test_schedules_are_those_of_detrex():
    # The sets that each layer takes, and the number of all outputs, as in detrex.
    starts, ends = [0, 0, 1, 2, 4, 7], [1, 2, 4, 7, 12, 20]
    assert [end - start for start, end in zip(starts, ends, strict=True)] == [1, 2, 3, 5, 8, 13]
    sizes, first = [1], [0]
    for layer, stages in enumerate(selective_recollection(6)):
        assert first[stages[0]] == starts[layer]
        assert first[stages[-1]] + sizes[stages[-1]] == ends[layer]
        first.append(first[-1] + sizes[-1])
        sizes.append(sum(sizes[stage] for stage in stages))
    assert sum(sizes[1:]) == 32
    assert selective_recollection(4) == PAPER
    assert selective_recollection(3, 1) == [[0], [1], [2]]
    assert selective_recollection(3, 3) == [[0], [0, 1], [0, 1, 2]]  # dense
    with pytest.raises(ValueError, match="num_stages=0"):
        selective_recollection(3, 0)


@pytest.mark.parametrize(
    ("schedule", "match"),
    [
        ([[0], [0, 1]], "2 layers.*decoder has 4"),
        ([[0], [0], [1, 2], [3]], r"recollection\[1\] is \[0\].* 1, "),
        ([[0], [], [1, 2], [3]], r"recollection\[1\] is \[\]"),
        ([[0], [1], [2, 1, 2], [3]], r"recollection\[2\]"),
        ([[0], [1], [-1, 2], [3]], r"recollection\[2\] is \[-1, 2\]"),
        ([[0], [1], [2, 3], [3]], r"recollection\[2\] is \[2, 3\]"),
    ],
)
def test_invalid_schedules_raise_an_error(schedule, match):
    with pytest.raises(ValueError, match=match):
        build(recollection=schedule)


def outputs_in_a_loop(decoder, heads, queries, memory, schedule):
    """Decode set by set with one layer call each, and with explicit formulas."""
    start = (queries.content, queries.reference, None, [queries.reference])
    stages, outputs = [[start]], []
    for index, layer in enumerate(decoder.layers):
        stage_outputs = []
        for stage in schedule[index]:
            for query, reference, refined, boxes in stages[stage]:
                attended = reference.detach() if index else reference
                base = attended if refined is None and not index else refined if refined is not None else reference
                bias = None
                if decoder.relation is not None and len(boxes) > 1:
                    bias = {"attn_bias": decoder.relation(*boxes[-2:])}
                result = layer(
                    query,
                    memory.tokens,
                    key_pos=memory.pos,
                    key_padding_mask=memory.padding,
                    self_attn_mask=queries.attn_mask,
                    self_attn_inputs=bias,
                )
                offsets = heads.bbox_embed[index](result)
                output = heads.boxes(offsets, base)
                next_reference = heads.boxes(offsets, attended)
                outputs.append((heads.class_embed[index](result), output))
                stage_outputs.append((result, next_reference, next_reference, [*boxes, output]))
        stages.append(stage_outputs)
    return outputs


SCHEDULES = {"paper": PAPER, "dense": [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]], "late": [[0], [1], [2], [1, 3]]}


@pytest.mark.parametrize("with_relation", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_outputs_of_a_set_do_not_depend_on_the_other_sets(memory, name, with_relation):
    relation = PositionRelation(num_heads=HEADS, num_pos_feats=4) if with_relation else None
    decoder = build(recollection=SCHEDULES[name], relation=relation)
    heads = heads_of(with_box_refine=True, look_forward_twice=True)
    noised = block_of("_dn*", 3, sees=("",), mask=torch.eye(3, dtype=torch.bool))
    for blocks in ([block_of()], [noised, block_of()], [block_of(padding=torch.eye(6, dtype=torch.bool)[:2])]):
        for block in blocks:
            block.reference.requires_grad_()
        queries = Queries(blocks)
        actual = decoder(queries, memory, heads)
        expected = outputs_in_a_loop(decoder, heads, queries, memory, SCHEDULES[name])
        assert len(actual) == len(expected) == {"paper": 11, "dense": 15, "late": 5}[name]
        learned = [*decoder.parameters(), *heads.parameters(), *(block.reference for block in blocks)]
        weights = torch.rand(len(actual), dtype=torch.float64)
        totals = []
        for outputs in ([(output.logits, output.boxes) for output in actual], expected):
            parts = [
                weight * (a.square().sum() + b.square().sum()) for weight, (a, b) in zip(weights, outputs, strict=True)
            ]
            totals.append(sum(parts))
        for output, (logits, boxes) in zip(actual, expected, strict=True):
            assert_close(output.logits, logits)
            assert_close(output.boxes, boxes)
        gradients = [torch.autograd.grad(total, learned, retain_graph=True, allow_unused=True) for total in totals]
        for actual_gradient, expected_gradient in zip(*gradients, strict=True):
            assert (actual_gradient is None) == (expected_gradient is None)
            if actual_gradient is not None:
                assert_close(actual_gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_groups_are_recollected_separately(memory):
    decoder = build(recollection=PAPER, relation=PositionRelation(num_heads=HEADS, num_pos_feats=4))
    heads = heads_of(with_box_refine=True)
    block = block_of(size=6, num_groups=3)
    outputs = decoder(Queries([block]), memory, heads)
    for group in range(3):
        rows = slice(2 * group, 2 * group + 2)
        group_alone = replace(block, content=block.content[:, rows], reference=block.reference[:, rows], num_groups=1)
        for actual, expected in zip(outputs, decoder(Queries([group_alone]), memory, heads), strict=True):
            assert_close(actual.logits[:, rows], expected.logits)
            assert_close(actual.boxes[:, rows], expected.boxes)


def test_evaluation_and_single_stage_schedules_decode_without_recollection(memory):
    heads, queries = heads_of(with_box_refine=True, look_forward_twice=True), Queries([block_of()])
    plain = build()(queries, memory, heads)
    for arguments, training in (({"recollection": PAPER}, False), ({"recollection": [[0], [1], [2], [3]]}, True)):
        outputs = build(**arguments)(queries, memory, heads, training=training)
        assert len(outputs) == LAYERS
        for actual, expected in zip(outputs, plain, strict=True):
            assert_close(actual.boxes, expected.boxes, rtol=0, atol=0)
            assert_close(actual.logits, expected.logits, rtol=0, atol=0)


def test_the_last_output_belongs_to_queries_that_passed_all_layers(memory):
    heads, queries = heads_of(with_box_refine=True), Queries([block_of()])
    plain, recollected = build()(queries, memory, heads), build(recollection=PAPER)(queries, memory, heads)
    assert_close(recollected[-1].boxes, plain[-1].boxes)
    names = set(queries.split(recollected))
    assert names == {"", *(f"_{number}" for number in range(10))}


def test_positions_of_queries_are_recollected(memory):
    class Positions(build().__class__):
        def layer_inputs(self, index, state):
            assert state.queries.position.shape == state.query.shape
            return {"query_pos": state.queries.position}

    position = torch.randn(2, 6, C, dtype=torch.float64)
    queries = Queries([block_of(coordinates=0, position=position)])
    outputs = build(Positions, recollection=PAPER)(queries, memory, heads_of(references=False))
    outputs_without_recollection = build(Positions)(queries, memory, heads_of(references=False))
    assert_close(outputs[-1].logits, outputs_without_recollection[-1].logits)


def test_recollecting_points_with_boxes_raises_an_error(memory):
    heads, queries = heads_of(with_box_refine=True), Queries([block_of(coordinates=2)])
    with pytest.raises(ValueError, match="points.*boxes.*stage 0"):
        build(recollection=PAPER)(queries, memory, heads)
    assert len(build(recollection=[[0], [1], [1, 2], [2, 3]])(queries, memory, heads)) == 7
    assert len(build(recollection=PAPER)(queries, memory, heads_of(with_box_refine=False))) == 11


def test_distributions_cannot_recollect_stage_zero(memory):
    heads = DistributionHeads(embed_dim=C, num_classes=3, num_layers=LAYERS, bins=EdgeBins(8)).double()
    queries = Queries([block_of()])
    with pytest.raises(ValueError, match="stage 0"):
        build(recollection=PAPER)(queries, memory, heads)
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.3)
    outputs = build(recollection=[[0], [1], [1, 2], [2, 3]])(queries, memory, heads)
    assert_close(outputs[-2].boxes, build()(queries, memory, heads)[-2].boxes)
