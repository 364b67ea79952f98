import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import (
    FFN,
    BaseTransformerLayer,
    MultiheadAttention,
    MultiScaleDeformableAttention,
    get_sine_pos_embed,
)
from detrex_lite.modeling import (
    Decoder,
    DecoderState,
    DetectionHeads,
    Memory,
    PositionRelation,
    Queries,
    QueryBlock,
    TokenLevels,
)
from detrex_lite.modeling.deformable import DeformableAnchorDecoder, DeformableDecoder
from detrex_lite.structures import ImageBatch

C, LAYERS, HEADS = 8, 4, 2


def layer_of(cross=None):
    attn = [MultiheadAttention(C, HEADS), cross or MultiheadAttention(C, HEADS)]
    order = ["self_attn", "norm", "cross_attn", "norm", "ffn", "norm"]
    return BaseTransformerLayer(attn=attn, ffn=FFN(C, 16), norm=nn.LayerNorm(C), operation_order=order)


def build(kind=Decoder, *, cross=None, dtype=torch.float64, **arguments):
    torch.manual_seed(0)
    return kind(layer=layer_of(cross), num_layers=LAYERS, **arguments).to(dtype)


def heads_of(dtype=torch.float64, **arguments):
    torch.manual_seed(1)
    heads = DetectionHeads(**{"embed_dim": C, "num_classes": 3, "num_layers": LAYERS, **arguments})
    for head in heads.bbox_embed:
        nn.init.normal_(head.layers[-1].weight, std=0.3)
    return heads.to(dtype)


def block_of(suffix="", size=6, coordinates=4, dtype=torch.float64, **fields):
    generator = torch.Generator().manual_seed(size)
    content = torch.randn(2, size, C, generator=generator, dtype=dtype)
    reference = None
    if coordinates:
        wide = torch.promote_types(dtype, torch.float32)
        reference = 0.1 + 0.8 * torch.rand(2, size, coordinates, generator=generator, dtype=wide)
    return QueryBlock(suffix, content, reference, **fields)


@pytest.fixture
def memory():
    generator = torch.Generator().manual_seed(2)
    tokens, pos = torch.randn(2, 7, C, generator=generator), torch.randn(1, 7, C, generator=generator)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    return Memory(tokens.double(), pos.double(), padding)


class Recorder(nn.Module):
    """Replaces a relation: returns a bias of zero and records its inputs."""

    def __init__(self):
        super().__init__()
        self.recorded = []

    def forward(self, previous, boxes):
        self.recorded.append((previous, boxes))
        return torch.zeros(len(boxes), 1, boxes.shape[1], boxes.shape[1], dtype=boxes.dtype)


# The loop


@pytest.mark.parametrize("with_box_refine", [False, True])
@pytest.mark.parametrize("coordinates", [2, 4])
def test_layers_run_in_order_and_refine_references(memory, with_box_refine, coordinates):
    decoder, heads = build(), heads_of(with_box_refine=with_box_refine)
    block = block_of(coordinates=coordinates)
    outputs = decoder(Queries([block]), memory, heads)
    query, reference, steps = block.content, block.reference, []
    for index, layer in enumerate(decoder.layers):
        query = layer(query, memory.tokens, key_pos=memory.pos, key_padding_mask=memory.padding)
        steps.append(heads.step(index, query, reference, steps[-1] if steps else None))
        reference = steps[-1].reference
    for actual, expected in zip(outputs, heads.read(steps), strict=True):
        assert_close(actual.logits, expected.logits)
        assert_close(actual.boxes, expected.boxes)


def test_outputs_do_not_depend_on_the_padding_of_the_memory(memory):
    decoder, heads, queries = build(), heads_of(), Queries([block_of()])
    expected = decoder(queries, memory, heads)[-1].logits
    changed = memory.tokens.clone()
    changed[1, 4:] = 7.0
    assert_close(decoder(queries, memory._replace(tokens=changed), heads)[-1].logits, expected)
    assert not torch.equal(decoder(queries, memory._replace(padding=None), heads)[-1].logits, expected)


def test_outputs_do_not_depend_on_a_block_that_other_blocks_do_not_see(memory):
    decoder, heads = build(), heads_of(with_box_refine=True)
    outputs_alone = decoder(Queries([block_of()]), memory, heads)
    noised = block_of("_dn*", 3, sees=("",), mask=torch.eye(3, dtype=torch.bool))
    queries = Queries([noised, block_of()])
    outputs_by_name = queries.split(decoder(queries, memory, heads))
    assert_close(outputs_by_name[""].logits, outputs_alone[-1].logits)
    assert_close(outputs_by_name["_0"].boxes, outputs_alone[0].boxes)
    # The denoising queries do depend on the queries that they see.
    not_seeing = Queries([replace(noised, sees=()), block_of()])
    not_seeing_outputs = not_seeing.split(decoder(not_seeing, memory, heads))
    assert (not_seeing_outputs["_dn"].logits - outputs_by_name["_dn"].logits).abs().max() > 1e-4


# Hooks


class WithHooks(Decoder):
    """A decoder whose references follow from the positions, and that scales the positions for each layer."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.states = []

    def first_reference(self, queries):
        return queries.position[..., :4].sigmoid()

    def layer_inputs(self, index, state):
        self.states.append((index, state))
        return super().layer_inputs(index, state) | {"query_pos": (index + 1) * state.queries.position}


def test_hooks_read_previous_steps_and_set_the_inputs_of_a_layer(memory):
    decoder, heads = build(WithHooks), heads_of(with_box_refine=True)
    queries = Queries([block_of(coordinates=0, position=torch.rand(2, 6, C, dtype=torch.float64))])
    decoder(queries, memory, heads)
    assert [index for index, _ in decoder.states] == list(range(LAYERS))
    query, reference = queries.content, queries.position[..., :4].sigmoid()
    for index, state in decoder.states:
        assert isinstance(state, DecoderState)
        assert state.queries is queries
        assert state.memory is memory
        assert [step.layer for step in state.steps[:index]] == list(range(index))
        assert_close(state.query, query)
        assert_close(state.reference, reference)
        query = decoder.layers[index](
            query,
            memory.tokens,
            query_pos=(index + 1) * queries.position,
            key_pos=memory.pos,
            key_padding_mask=memory.padding,
        )
        reference = heads.step(index, query, reference).reference
    assert_close(decoder.states[-1][1].steps[-1].query, query)


# Relations


@pytest.mark.parametrize("look_forward_twice", [False, True])
def test_the_relation_compares_the_boxes_of_the_two_previous_layers(memory, look_forward_twice):
    decoder = build(relation=Recorder())
    heads = heads_of(with_box_refine=True, look_forward_twice=look_forward_twice)
    block = block_of()
    outputs = decoder(Queries([block]), memory, heads)
    boxes = [block.reference, *(output.boxes for output in outputs)]
    assert len(decoder.relation.recorded) == LAYERS - 1  # before the first layer, each query has only one box
    for layer, (previous, current) in enumerate(decoder.relation.recorded):
        assert_close(previous, boxes[layer])
        assert_close(current, boxes[layer + 1])


def test_without_initial_boxes_the_relation_starts_in_the_third_layer(memory):
    for coordinates in (0, 2):
        decoder = build(relation=Recorder())
        heads = heads_of(references=coordinates > 0)
        outputs = decoder(Queries([block_of(coordinates=coordinates)]), memory, heads)
        assert len(decoder.relation.recorded) == LAYERS - 2
        for layer, (previous, current) in enumerate(decoder.relation.recorded):
            assert_close(previous, outputs[layer].boxes)
            assert_close(current, outputs[layer + 1].boxes)


def test_reading_boxes_early_changes_no_output(memory):
    for arguments in ({}, {"norm": nn.LayerNorm(C)}, {"share_heads": True}):
        heads = heads_of(with_box_refine=True, look_forward_twice=True, **arguments)
        queries = Queries([block_of()])
        plain, related = (build(relation=relation)(queries, memory, heads) for relation in (None, Recorder()))
        for plain_output, related_output in zip(plain, related, strict=True):
            assert_close(plain_output.boxes, related_output.boxes)
            assert_close(plain_output.logits, related_output.logits)


def test_the_relation_is_added_to_the_logits_of_self_attention(memory):
    relation = PositionRelation(num_heads=HEADS, num_pos_feats=4)
    decoder, heads, block = build(relation=relation), heads_of(), block_of()
    outputs = decoder(Queries([block]), memory, heads)
    query, boxes = block.content, [block.reference]
    for index, layer in enumerate(decoder.layers):
        bias = {"attn_bias": relation(*boxes[-2:])} if index else None
        query = layer(query, memory.tokens, key_pos=memory.pos, key_padding_mask=memory.padding, self_attn_inputs=bias)
        boxes.append(outputs[index].boxes)
        assert_close(outputs[index].logits, heads.class_embed[0](query))
    without = decoder(Queries([block]), memory, heads, use_relation=False)
    assert_close(without[0].logits, outputs[0].logits)
    assert (without[-1].logits - outputs[-1].logits).abs().max() > 1e-4
    decoder_without = build(relation=None)(Queries([block]), memory, heads)
    assert_close(decoder_without[-1].logits, without[-1].logits)


@pytest.mark.parametrize("with_relation", [False, True])
def test_outputs_of_a_group_do_not_depend_on_other_groups(memory, with_relation):
    relation = PositionRelation(num_heads=HEADS, num_pos_feats=4) if with_relation else None
    decoder, heads = build(relation=relation), heads_of(with_box_refine=True)
    block = block_of(size=6, num_groups=3)
    folded = Queries([block])
    assert folded.num_groups == 3
    folded_outputs = decoder(folded, memory, heads)
    masked = Queries([block, block_of("_other", 4)])  # a block of another size is masked instead of folded
    assert masked.num_groups == 1
    masked_outputs = decoder(masked, memory, heads)
    for group in range(3):
        rows = slice(2 * group, 2 * group + 2)
        group_alone = QueryBlock("", block.content[:, rows], block.reference[:, rows])
        for actual, masked_output, expected in zip(
            folded_outputs, masked_outputs, decoder(Queries([group_alone]), memory, heads), strict=True
        ):
            for name in ("logits", "boxes"):
                assert_close(getattr(actual, name)[:, rows], getattr(expected, name))
                assert_close(getattr(masked_output, name)[:, rows], getattr(expected, name))


def test_gradients_reach_the_relation_but_not_the_boxes_through_it(memory):
    decoder = build(relation=PositionRelation(num_heads=HEADS, num_pos_feats=4))
    heads, queries = heads_of(), Queries([block_of()])
    decoder(queries, memory, heads)[-1].logits.sum().backward()
    assert decoder.relation.pos_proj.weight.grad.any()
    assert all(parameter.grad is None for parameter in heads.bbox_embed.parameters())


# Several feature levels


def levels_and_memory(*, as_published=False, dtype=torch.float64):
    sizes = [[(2, 4), (1, 2)], [(1, 2), (1, 1)]]
    maps = [
        ImageBatch.of_padded(torch.zeros(2, 1, *shape), image_sizes, as_published=as_published)
        for shape, image_sizes in zip([(2, 4), (1, 2)], sizes, strict=True)
    ]
    levels = TokenLevels.from_maps(maps)
    tokens = torch.randn(2, 10, C, generator=torch.Generator().manual_seed(0)).to(dtype)
    return levels, Memory(tokens, None, levels.padding, levels)


def deformable_attention():
    return MultiScaleDeformableAttention(C, num_heads=HEADS, num_levels=2, num_points=2)


def state_of(memory, queries):
    return DecoderState(queries.content, queries.reference, [], queries, memory)


def test_references_are_converted_to_the_padded_maps():
    levels, memory = levels_and_memory()
    decoder = build(DeformableDecoder, cross=deformable_attention())
    position = torch.rand(2, 6, C, dtype=torch.float64)
    queries = Queries([block_of(coordinates=2, position=position)])
    inputs = decoder.layer_inputs(0, state_of(memory, queries))
    assert inputs["query_pos"] is queries.position
    assert inputs["cross_attn_inputs"]["spatial_shapes"] == [(2, 4), (1, 2)]
    points = inputs["cross_attn_inputs"]["reference_points"]
    assert_close(points, levels.in_maps(queries.reference))
    assert_close(points[1, :, 0], 0.5 * queries.reference[1])


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("scale_positions", [False, True])
def test_positions_are_relative_to_the_image_or_to_the_batch_as_published(as_published, scale_positions):
    levels, memory = levels_and_memory(as_published=as_published)
    decoder = build(
        DeformableAnchorDecoder,
        cross=deformable_attention(),
        embed_dim=C,
        scale_positions=scale_positions,
        temperature=50,
    )
    queries = Queries([block_of()])
    boxes = levels.in_maps(queries.reference)[:, :, 0] if as_published else queries.reference
    expected = decoder.ref_point_head(get_sine_pos_embed(boxes, C // 2, 50))
    state = state_of(memory, queries)
    assert_close(decoder.query_position(0, state), expected)
    scaled = decoder.query_scale(state.query) * expected if scale_positions else expected
    assert_close(decoder.query_position(1, state), scaled)


def test_a_deformable_decoder_without_levels_raises_an_error(memory):
    decoder = build(DeformableDecoder, cross=deformable_attention())
    with pytest.raises(ValueError, match="feature levels"):
        decoder(Queries([block_of()]), memory, heads_of())


# Precisions, copies


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [DeformableDecoder, DeformableAnchorDecoder])
def test_outputs_have_the_precision_of_the_model_and_boxes_at_least_float32(kind, dtype):
    arguments = {"embed_dim": C} if kind is DeformableAnchorDecoder else {}
    relation = PositionRelation(num_heads=HEADS, num_pos_feats=4)
    decoder = build(kind, cross=deformable_attention(), relation=relation, dtype=dtype, **arguments)
    _, memory = levels_and_memory(dtype=dtype)
    position = torch.rand(2, 6, C, dtype=dtype)
    heads = heads_of(dtype, with_box_refine=True, look_forward_twice=True)
    for output in decoder(Queries([block_of(dtype=dtype, position=position)]), memory, heads):
        assert output.logits.dtype == dtype
        assert output.boxes.dtype == torch.promote_types(dtype, torch.float32)
        assert torch.isfinite(output.boxes).all()


def test_copies_share_no_weights(memory):
    decoder, heads, queries = build(relation=PositionRelation(HEADS, 4)), heads_of(), Queries([block_of()])
    expected = decoder(queries, memory, heads)[-1].logits
    copied = copy.deepcopy(decoder)
    assert_close(copied(queries, memory, heads)[-1].logits, expected)
    nn.init.zeros_(decoder.layers[0].ffns[0].layers[0].weight)
    assert_close(copied(queries, memory, heads)[-1].logits, expected)


def test_layers_draw_different_initial_values():
    first, second = build().layers[:2]
    assert not torch.equal(first.attentions[0].in_proj_weight, second.attentions[0].in_proj_weight)
    layers = [layer_of(), layer_of()]
    assert list(Decoder(layer=layers).layers) == layers
    with pytest.raises(ValueError, match="2 layers.*num_layers=3"):
        Decoder(layer=layers, num_layers=3)
