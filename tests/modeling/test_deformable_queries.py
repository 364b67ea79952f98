import copy
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import get_sine_pos_embed
from detrex_lite.modeling import DetectionHeads, Memory, QueryLayout, Targets, TokenLevels
from detrex_lite.modeling.deformable import AnchorQueries, DeformableQueries, gather_tokens
from detrex_lite.structures import ImageBatch

C, CLASSES, Q, GROUPS, MANY = 8, 3, 3, 2, 4
KINDS = [DeformableQueries, AnchorQueries]
LAYOUTS = {
    "plain": {},
    "groups": {"num_groups": GROUPS},
    "one2many": {"num_queries_one2many": MANY},
    "both": {"num_groups": GROUPS, "num_queries_one2many": MANY},
}

# Layouts for two stages with mixed selection and without; without it, all groups would be identical.
SELECTIONS = [
    (name, mixed) for name in LAYOUTS for mixed in (False, True) if mixed or "num_groups" not in LAYOUTS[name]
]


def build(kind, layout="plain", *, dtype=torch.float64, **arguments):
    torch.manual_seed(0)
    queries = kind(layout=QueryLayout(Q, **LAYOUTS[layout]), embed_dim=C, **arguments)
    for parameter in queries.parameters():
        if not parameter.any():  # zero initial values would hide mistakes
            nn.init.normal_(parameter)
    return queries.to(dtype)


def heads_of(dtype=torch.float64):
    torch.manual_seed(1)
    heads = DetectionHeads(embed_dim=C, num_classes=CLASSES, num_layers=2, with_box_refine=True, for_encoder=True)
    for head in heads.bbox_embed:
        nn.init.normal_(head.layers[-1].weight, std=0.3)
    return heads.to(dtype)


def memory_of(height=3, width=4, *, batch=2, dtype=torch.float64, as_published=False):
    sizes = [(height, width), *[((height + 1) // 2, (width + 1) // 2)] * (batch - 1)]
    maps = [ImageBatch.of_padded(torch.zeros(batch, 1, height, width), sizes, as_published=as_published)]
    levels = TokenLevels.from_maps(maps)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(batch, height * width, C, generator=generator, dtype=torch.float64).to(dtype)
    return Memory(tokens, None, levels.padding, levels)


def ranks(layout, training, proposals):
    """The rank of the proposal that each query starts from, by a loop."""
    queries = [rank for _ in range(layout.num_groups if training else 1) for rank in range(Q)]
    queries += [Q + rank for rank in range(layout.num_queries_one2many if training else 0)]
    return [rank for rank in queries if rank < proposals]


def joined(blocks, name):
    return torch.cat([getattr(block, name) for block in blocks], dim=1)


# One stage


@pytest.mark.parametrize("layout", LAYOUTS)
def test_learned_points_are_projections_of_learned_positions(layout):
    queries, memory = build(DeformableQueries, layout), memory_of()
    for training in (True, False):
        blocks, proposals = queries(memory, heads_of(), training=training)
        number = queries.layout.total if training else queries.layout.num_queries
        position, content = queries.embedding.weight[:number].expand(2, -1, -1).chunk(2, dim=-1)
        assert_close(joined(blocks, "content"), content)
        assert_close(joined(blocks, "position"), position)
        assert_close(joined(blocks, "reference"), queries.reference_points(position).sigmoid())
        assert proposals is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("indicator", [False, True])
def test_learned_boxes_come_with_learned_contents(layout, indicator):
    queries, memory = build(AnchorQueries, layout, indicator=indicator), memory_of()
    for training in (True, False):
        blocks, proposals = queries(memory, heads_of(), training=training)
        number = queries.layout.total if training else queries.layout.num_queries
        assert_close(joined(blocks, "reference"), queries.boxes()[:number].expand(2, -1, -1))
        content = joined(blocks, "content")
        assert content.shape == (2, number, C)
        assert_close(content[..., : C - indicator], queries.content.weight[:number].expand(2, -1, -1))
        assert not (indicator and content[..., -1].any())
        assert (proposals, blocks[0].position) == (None, None)


def test_initial_boxes_are_uniform_over_the_image_with_contents_of_zero():
    torch.manual_seed(0)
    queries = AnchorQueries(layout=QueryLayout(2000), embed_dim=C)
    assert not queries.content.weight.any()
    assert_close(queries.boxes().histc(4, 0, 1) / 8000, torch.full((4,), 0.25), rtol=0, atol=0.03)
    assert queries.boxes.weight.abs().max() <= 3


@pytest.mark.parametrize("stages", [{}, {"as_two_stage": True, "mixed_selection": True}])
def test_normal_init_draws_all_learned_values_from_a_normal_distribution(stages):
    torch.manual_seed(0)
    queries = AnchorQueries(layout=QueryLayout(4000), embed_dim=C, normal_init=True, **stages)
    learned = [queries.content.weight] if stages else [queries.content.weight, queries.boxes.weight]
    for weight in learned:
        assert_close(weight.std(), torch.tensor(1.0), rtol=0.03, atol=0)
        assert weight.abs().max() > 3


# Two stages


@pytest.mark.parametrize("tokens", [(1, 1), (1, 2), (2, 2), (1, 5), (3, 4)])
@pytest.mark.parametrize(("layout", "mixed_selection"), SELECTIONS)
@pytest.mark.parametrize("training", [False, True])
def test_anchor_queries_start_at_the_best_proposals(tokens, layout, mixed_selection, training):
    memory, heads = memory_of(*tokens, batch=1), heads_of()
    queries = build(AnchorQueries, layout, as_two_stage=True, mixed_selection=mixed_selection)
    blocks, proposals = queries(memory, heads, training=training)
    proposed = queries.proposals(memory)
    output = heads.propose(*proposed)
    num_proposals = min(queries.layout.num_proposals(training=training), len(memory.tokens[0]))
    best = output.logits.max(-1).values.argsort(dim=1, descending=True)[:, :num_proposals]
    query_ranks = ranks(queries.layout, training, num_proposals)
    boxes = gather_tokens(output.boxes, best)
    assert_close(joined(blocks, "reference"), boxes[:, query_ranks])
    assert not joined(blocks, "reference").requires_grad
    content = joined(blocks, "content")
    if mixed_selection:
        # Each group and rank has its own row.
        rows = [r for r, rank in enumerate(ranks(queries.layout, training, 99)) if rank < num_proposals]
        assert_close(content, queries.content.weight[rows][None])
    else:
        assert_close(content, gather_tokens(proposed.tokens, best)[:, query_ranks])
        assert not content.requires_grad
    if training:
        assert_close(proposals.boxes, boxes[:, :Q])
        assert_close(proposals.logits, gather_tokens(output.logits, best)[:, :Q])
        assert proposals.boxes.requires_grad
        assert proposals.targets is None
    else:
        assert proposals is None


@pytest.mark.parametrize("tokens", [(1, 1), (2, 2), (1, 5), (3, 4)])
@pytest.mark.parametrize(("layout", "mixed_selection"), SELECTIONS)
@pytest.mark.parametrize("training", [False, True])
def test_two_stage_queries_are_sine_embeddings_of_the_best_proposals(tokens, layout, mixed_selection, training):
    memory, heads = memory_of(*tokens, batch=1), heads_of()
    queries = build(DeformableQueries, layout, as_two_stage=True, mixed_selection=mixed_selection)
    blocks, proposals = queries(memory, heads, training=training)
    output = heads.propose(*queries.proposals(memory))
    num_proposals = min(queries.layout.num_proposals(training=training), len(memory.tokens[0]))
    best = output.logits[..., 0].argsort(dim=1, descending=True)[:, :num_proposals]
    query_ranks = ranks(queries.layout, training, num_proposals)
    boxes = gather_tokens(output.boxes, best)[:, query_ranks]
    assert_close(joined(blocks, "reference"), boxes)
    embedding = get_sine_pos_embed(boxes, C // 2, exchange_xy=False)
    position, content = queries.pos_trans_norm(queries.pos_trans(embedding)).chunk(2, dim=-1)
    assert_close(joined(blocks, "position"), position)
    if mixed_selection:
        rows = [r for r, rank in enumerate(ranks(queries.layout, training, 99)) if rank < num_proposals]
        content = queries.embedding.weight[rows][None]
    assert_close(joined(blocks, "content"), content)
    if training:  # all tokens are trained to predict whether they are an object
        assert_close(proposals.logits, output.logits)
        assert_close(proposals.boxes, output.boxes)
        assert proposals.targets is Targets.class_agnostic
    else:
        assert proposals is None


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_of_an_image_do_not_depend_on_its_padding(kind):
    queries, heads, padded_memory = build(kind, as_two_stage=True), heads_of(), memory_of(3, 4)
    not_padding = ~padded_memory.padding[1]
    assert not_padding.sum() == 4
    maps = [ImageBatch.of_padded(torch.zeros(1, 1, 2, 2), [(2, 2)])]
    memory_alone = Memory(padded_memory.tokens[1:, not_padding], None, None, TokenLevels.from_maps(maps))
    (padded_block,) = queries(padded_memory, heads, training=False).blocks
    (block_alone,) = queries(memory_alone, heads, training=False).blocks
    assert_close(padded_block.reference[1:], block_alone.reference, rtol=1e-5, atol=1e-5)
    assert_close(padded_block.content[1:], block_alone.content, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_two_stages_end_at_the_proposals(kind):
    queries, heads, memory = build(kind, as_two_stage=True), heads_of(), memory_of()
    memory.tokens.requires_grad_()
    blocks, proposals = queries(memory, heads, training=True)
    assert not blocks[0].reference.requires_grad
    proposals.boxes.sum().backward()
    assert memory.tokens.grad.any()
    assert queries.proposals.enc_output.weight.grad.any()


def test_only_proposals_of_matching_queries_are_trained():
    queries, heads, memory = (
        build(AnchorQueries, "both", as_two_stage=True, mixed_selection=True),
        heads_of(),
        memory_of(),
    )
    blocks, proposals = queries(memory, heads, training=True)
    assert [block.suffix for block in blocks] == ["", "_one2many"]
    assert [block.size for block in blocks] == [Q * GROUPS, MANY]
    assert proposals.logits.shape == (2, Q, CLASSES)


# Precisions, copies, errors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("as_two_stage", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_queries_have_the_precision_of_the_model_and_references_float32_at_least(kind, as_two_stage, dtype):
    queries = build(kind, "both", as_two_stage=as_two_stage, mixed_selection=as_two_stage, dtype=dtype)
    blocks, _ = queries(memory_of(dtype=dtype), heads_of(dtype), training=True)
    for block in blocks:
        assert block.content.dtype == dtype
        assert block.position is None or block.position.dtype == dtype
        assert block.reference.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("as_two_stage", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_give_the_same_queries(kind, as_two_stage):
    queries, heads, memory = (
        build(kind, "both", as_two_stage=as_two_stage, mixed_selection=as_two_stage),
        heads_of(),
        memory_of(),
    )
    expected = queries(memory, heads, training=True).blocks
    for copied in (copy.deepcopy(queries), pickle.loads(pickle.dumps(queries))):
        for actual, block in zip(copied(memory, heads, training=True).blocks, expected, strict=True):
            assert_close(actual.content, block.content)
            assert_close(actual.reference, block.reference)


@pytest.mark.parametrize("kind", KINDS)
def test_errors(kind):
    with pytest.raises(ValueError, match="mixed_selection=True needs as_two_stage=True"):
        build(kind, mixed_selection=True)
    with pytest.raises(ValueError, match="num_groups=2.*needs mixed_selection=True"):
        build(kind, "groups", as_two_stage=True)
    queries = build(kind, as_two_stage=True)
    with pytest.raises(ValueError, match="for_encoder=False"):
        queries(memory_of(), DetectionHeads(embed_dim=C, num_classes=2, num_layers=1).double(), training=True)
    with pytest.raises(ValueError, match="feature levels"):
        queries(memory_of()._replace(levels=None), heads_of(), training=True)
