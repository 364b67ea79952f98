import copy
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.modeling import DetectionHeads, LayerOutput, refine
from detrex_lite.structures import inverse_sigmoid

CHANNELS, CLASSES, LAYERS = 8, 3, 3


def build(*, drawn=True, dtype=torch.float64, **arguments):
    """Heads; `drawn` gives random weights, so that boxes depend on the queries as after training."""
    torch.manual_seed(0)
    heads = DetectionHeads(**{"embed_dim": CHANNELS, "num_classes": CLASSES, "num_layers": LAYERS, **arguments})
    if drawn:
        for head in heads.bbox_embed:
            nn.init.normal_(head.layers[-1].weight, std=0.3)
        for parameter in heads.class_embed.parameters():
            nn.init.normal_(parameter)
    return heads.to(dtype)


def draw(coordinates=4, *, layers=LAYERS, dtype=torch.float64):
    """The queries of each layer, and the initial references."""
    generator = torch.Generator().manual_seed(1)
    queries = [torch.randn(2, 5, CHANNELS, generator=generator, dtype=dtype) for _ in range(layers)]
    reference = None
    if coordinates:
        reference = 0.05 + 0.9 * torch.rand(2, 5, coordinates, generator=generator, dtype=torch.float64)
    return queries, reference


def steps_of(heads, queries, reference):
    """The steps of a decoder, and the reference that each layer attends to."""
    steps, attended = [], []
    for index, query in enumerate(queries):
        attended.append(reference)
        steps.append(heads.step(index, query, reference, steps[-1] if steps else None))
        reference = steps[-1].reference
    return steps, attended


# Precision


@pytest.mark.parametrize("share_heads", [True, False])
def test_boxes_are_exact_in_mixed_precision(share_heads):
    heads = build(dtype=torch.float32, with_box_refine=True, for_encoder=True, share_heads=share_heads)
    queries, reference = draw(dtype=torch.float32)
    anchors, proposes = reference.float(), torch.ones(2, 5, dtype=torch.bool)

    def boxes():
        steps, _ = steps_of(heads, queries, reference.float())
        return [*(layer.boxes for layer in heads.read(steps)), heads.propose(queries[0], anchors, proposes).boxes]

    expected = boxes()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = boxes()
    assert {level_boxes.dtype for level_boxes in actual} == {torch.float32}
    assert_close(actual, expected, rtol=0, atol=0)


def test_quantised_heads_predict_boxes():
    heads = build(dtype=torch.float32)
    queries, reference = draw(dtype=torch.float32)
    expected = heads.read(steps_of(heads, queries, reference.float())[0])
    quantised = torch.ao.quantization.quantize_dynamic(heads, {nn.Linear})
    actual = quantised.read(steps_of(quantised, queries, reference.float())[0])
    assert_close(actual[-1].boxes, expected[-1].boxes, rtol=0, atol=0.05)


# Initial values


def test_initial_scores_are_low_unless_background_is_a_class():
    heads = build(drawn=False)
    for head in heads.class_embed:
        scores = head(torch.zeros(1, CHANNELS, dtype=torch.float64)).sigmoid()
        assert_close(scores, torch.full((1, CLASSES), 0.01, dtype=torch.float64))
    with_background = build(drawn=False, background=True).class_embed[0]
    assert with_background.out_features == CLASSES + 1
    assert with_background.bias.abs().max() < 1


def test_initial_boxes_equal_their_references_and_get_gradients():
    heads = build(drawn=False, with_box_refine=True, for_encoder=True)
    queries, reference = draw()
    steps, _ = steps_of(heads, queries, reference)
    outputs = heads.read(steps)
    for output in outputs:
        assert_close(output.boxes, reference)
    for output, head in zip(outputs, heads.bbox_embed, strict=False):
        output.boxes.sum().backward(retain_graph=True)
        assert head.layers[-1].weight.grad.any()


def test_initial_size_sets_the_size_of_boxes_at_points():
    heads = build(drawn=False, initial_size=-1.5)
    queries, points = draw(2)
    boxes = heads.read(steps_of(heads, queries, points)[0])[-1].boxes
    assert_close(boxes[..., :2], points)
    assert_close(boxes[..., 2:], torch.full_like(boxes[..., 2:], -1.5).sigmoid())
    refined = build(drawn=False, with_box_refine=True, initial_size=-1.5)
    for output in refined.read(steps_of(refined, queries, points)[0]):
        assert_close(output.boxes[..., 2:], torch.full_like(boxes[..., 2:], -1.5).sigmoid())


def test_boxes_without_references_are_predicted_directly():
    heads = build(background=True, references=False, drawn=False)
    queries, _ = draw()
    assert heads.bbox_embed[0].layers[-1].weight.any()
    for query, output in zip(queries, heads.read(steps_of(heads, queries, None)[0]), strict=True):
        assert_close(output.boxes, heads.bbox_embed[0](query).sigmoid())
        assert output.logits.shape == (2, 5, CLASSES + 1)


# Assignment of heads to layers


@pytest.mark.parametrize("for_encoder", [False, True])
@pytest.mark.parametrize("share_heads", [False, True])
def test_share_heads_and_for_encoder_set_the_number_of_heads(share_heads, for_encoder):
    heads = build(share_heads=share_heads, for_encoder=for_encoder, with_box_refine=True)
    for embed in (heads.class_embed, heads.bbox_embed):
        assert len(embed) == LAYERS + for_encoder
        assert len({id(head) for head in embed}) == (1 if share_heads else LAYERS) + for_encoder


def test_heads_are_shared_unless_boxes_are_refined():
    assert build().share_heads
    assert not build(with_box_refine=True).share_heads
    assert not build(share_heads=False).share_heads


# (coordinates of references, refine, look forward twice)
KINDS = [(0, False, False), (2, False, False), (4, False, False), (2, True, False), (4, True, False), (2, True, True)]


@pytest.mark.parametrize(("coordinates", "with_box_refine", "look_forward_twice"), [*KINDS, (4, True, True)])
@pytest.mark.parametrize("with_norm", [False, True])
def test_shared_heads_give_the_same_outputs_for_all_layers_at_once(
    coordinates, with_norm, with_box_refine, look_forward_twice
):
    heads = build(
        share_heads=True,
        references=coordinates > 0,
        with_box_refine=with_box_refine,
        look_forward_twice=look_forward_twice,
        norm=nn.LayerNorm(CHANNELS) if with_norm else None,
    )
    queries, reference = draw(coordinates)
    steps, _ = steps_of(heads, queries, reference)
    outputs = heads.read(steps)
    for step, output in zip(steps, outputs, strict=True):
        (single_output,) = heads.read([step])
        assert_close(output.logits, single_output.logits)
        assert_close(output.boxes, single_output.boxes)
        assert_close(heads.read_boxes(step), output.boxes)


@pytest.mark.parametrize("with_norm", [False, True])
def test_outputs_and_references_follow_their_formulas(with_norm):
    norm = nn.LayerNorm(CHANNELS) if with_norm else None
    heads = build(with_box_refine=True, norm=norm)
    if with_norm:
        nn.init.normal_(heads.norm.weight)
    queries, reference = draw()
    steps, attended = steps_of(heads, queries, reference)
    outputs = heads.read(steps)
    for index, query in enumerate(queries):
        normed = heads.norm(query) if with_norm else query
        assert_close(outputs[index].logits, heads.class_embed[index](normed))
        logit = torch.logit(attended[index], eps=1e-3)
        assert_close(outputs[index].boxes, (heads.bbox_embed[index](normed) + logit).sigmoid())
        if index < LAYERS - 1:
            # References are refined by queries before the norm.
            refined = (heads.bbox_embed[index](query) + logit).sigmoid()
            assert_close(attended[index + 1], refined)
    assert steps[-1].reference is attended[-1]  # the last layer does not refine references


def test_without_refinement_all_layers_use_the_initial_references():
    heads = build(share_heads=False)
    for coordinates in (2, 4):
        queries, reference = draw(coordinates)
        steps, attended = steps_of(heads, queries, reference)
        assert all(layer_reference is reference for layer_reference in attended)
        for index, output in enumerate(heads.read(steps)):
            assert_close(output.boxes, refine(heads.bbox_embed[index](queries[index]), reference))


def test_points_become_boxes_after_the_first_layer():
    heads = build(with_box_refine=True)
    queries, points = draw(2)
    steps, attended = steps_of(heads, queries, points)
    assert [layer_reference.shape[-1] for layer_reference in attended] == [2, 4, 4]
    offsets = heads.bbox_embed[0](queries[0])
    expected = torch.cat([inverse_sigmoid(points) + offsets[..., :2], offsets[..., 2:]], dim=-1).sigmoid()
    assert_close(attended[1], expected)
    assert_close(heads.read(steps)[0].boxes, expected)


def test_eps_reaches_the_inverse_sigmoid():
    queries, _ = draw()
    reference = torch.full((2, 5, 4), 1e-4, dtype=torch.float64)
    for eps in (1e-3, 1e-5):
        heads = build(drawn=False, eps=eps, for_encoder=True)
        boxes = heads.read(steps_of(heads, queries, reference)[0])[0].boxes
        assert_close(boxes, torch.full_like(boxes, max(eps / (1 - 1e-4 + eps), 1e-4)), rtol=1e-2, atol=0)


# Gradients


@pytest.mark.parametrize("look_forward_twice", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
def test_box_losses_train_one_layer_or_two_with_look_forward_twice(look_forward_twice, with_norm):
    norm = nn.LayerNorm(CHANNELS) if with_norm else None
    heads = build(with_box_refine=True, look_forward_twice=look_forward_twice, norm=norm)
    queries, reference = draw()
    for query in queries:
        query.requires_grad_()
    reference.requires_grad_()
    steps, attended = steps_of(heads, queries, reference)
    outputs = heads.read(steps)
    assert not any(layer_reference.requires_grad for layer_reference in attended[1:])
    for index, output in enumerate(outputs):
        gradients = torch.autograd.grad(output.boxes.sum(), queries, retain_graph=True, allow_unused=True)
        trained = [layer for layer, gradient in enumerate(gradients) if gradient is not None and gradient.any()]
        twice = look_forward_twice and index > 0
        assert trained == ([index - 1, index] if twice else [index])
    (gradient,) = torch.autograd.grad(outputs[0].boxes.sum(), reference, retain_graph=True)
    assert gradient.any()


def test_look_forward_twice_does_not_change_values():
    queries, reference = draw()
    outputs = []
    for look_forward_twice in (False, True):
        heads = build(with_box_refine=True, look_forward_twice=look_forward_twice)
        outputs.append(heads.read(steps_of(heads, queries, reference)[0]))
    for once, twice in zip(*outputs, strict=True):
        assert_close(twice.logits, once.logits)
        assert_close(twice.boxes, once.boxes)


# Boxes that are read before the other outputs


@pytest.mark.parametrize("look_forward_twice", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
def test_boxes_read_early_are_reused_in_the_output(look_forward_twice, with_norm):
    norm = nn.LayerNorm(CHANNELS) if with_norm else None
    heads = build(with_box_refine=True, look_forward_twice=look_forward_twice, norm=norm)
    steps, _ = steps_of(heads, *draw())
    for step, output in zip(steps, heads.read(steps), strict=True):
        boxes = heads.read_boxes(step)
        assert_close(boxes, output.boxes)
        (second_output,) = heads.read([step._replace(boxes=boxes)])
        assert second_output.boxes is boxes


# Proposals


def test_proposals_are_read_by_the_last_heads():
    heads = build(with_box_refine=True, for_encoder=True)
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(2, 6, CHANNELS, generator=generator, dtype=torch.float64)
    anchors = 0.02 + 0.9 * torch.rand(1, 6, 4, generator=generator, dtype=torch.float64)
    proposes = torch.rand(2, 6, generator=generator) < 0.5
    output = heads.propose(memory, anchors, proposes)
    assert isinstance(output, LayerOutput)
    assert_close(output.logits, heads.class_embed[LAYERS](memory))
    expected = (heads.bbox_embed[LAYERS](memory) + torch.logit(anchors)).sigmoid()
    assert_close(output.boxes, torch.where(proposes[..., None], expected, torch.ones_like(expected)))


def test_heads_without_encoder_heads_cannot_propose():
    with pytest.raises(ValueError, match="for_encoder=False"):
        build().propose(torch.zeros(1, 2, CHANNELS), torch.full((1, 2, 4), 0.5), torch.ones(1, 2, dtype=torch.bool))


def test_heads_can_exist_for_the_encoder_only():
    heads = build(num_layers=0, for_encoder=True)
    assert (len(heads.class_embed), heads.read([])) == (1, [])
    memory = torch.randn(1, 2, CHANNELS, dtype=torch.float64)
    assert heads.propose(memory, torch.full((1, 2, 4), 0.5), torch.ones(1, 2, dtype=torch.bool)).boxes.shape == (
        1,
        2,
        4,
    )


# Refining


def test_refining_by_zero_keeps_boxes_and_gives_points_a_size_of_one_half():
    boxes = torch.tensor([[0.2, 0.7, 0.1, 0.4]])
    assert_close(refine(torch.zeros(1, 4), boxes), boxes)
    # A point has no size, so the head predicts the whole size.
    assert_close(refine(torch.zeros(1, 4), boxes[:, :2]), torch.tensor([[0.2, 0.7, 0.5, 0.5]]))


@pytest.mark.parametrize("coordinates", [2, 4])
def test_refining_adds_logits_and_has_an_inverse(coordinates):
    generator = torch.Generator().manual_seed(0)
    reference = 0.01 + 0.98 * torch.rand(3, 5, coordinates, generator=generator, dtype=torch.float64)
    offsets = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64) / 4
    refined = refine(offsets, reference)
    assert refined.shape == (3, 5, 4)
    assert refined.dtype == torch.float64
    reference_logits = torch.logit(reference)
    if coordinates == 2:
        reference_logits = torch.cat([reference_logits, torch.zeros_like(reference_logits)], dim=-1)
    assert_close(inverse_sigmoid(refined), reference_logits + offsets)
    assert_close(refine(inverse_sigmoid(refined) - reference_logits, reference), refined)


def test_refining_by_half_precision_offsets_is_float32():
    refined = refine(torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([[0.3, 0.6, 0.1, 0.2]]))
    assert_close(refined, torch.tensor([[0.3, 0.6, 0.1, 0.2]]))


def test_references_at_the_border_stay_finite():
    offsets = torch.zeros(1, 4, requires_grad=True)
    refined = refine(offsets, torch.tensor([[0.0, 1.0, 0.0, 1.0]]))
    refined.sum().backward()
    assert_close(refined, torch.tensor([[0.0, 1.0, 0.0, 1.0]]), rtol=0, atol=2e-3)
    assert (offsets.grad > 0).all()


# Precisions, copies, errors


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("share_heads", [False, True])
@pytest.mark.parametrize("with_box_refine", [False, True])
def test_boxes_are_float32_at_least(coordinates, share_heads, with_box_refine):
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        heads = build(share_heads=share_heads, with_box_refine=with_box_refine, dtype=dtype)
        queries, reference = draw(coordinates, dtype=dtype)
        reference = reference.to(torch.promote_types(dtype, torch.float32))
        for output in heads.read(steps_of(heads, queries, reference)[0]):
            assert output.logits.dtype == dtype
            assert output.boxes.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("share_heads", [False, True])
def test_heads_accept_zero_queries(share_heads):
    heads = build(share_heads=share_heads, with_box_refine=True)
    queries = [query[:, :0] for query in draw()[0]]
    for output in heads.read(steps_of(heads, queries, torch.zeros(2, 0, 4, dtype=torch.float64))[0]):
        assert output.logits.shape == (2, 0, CLASSES)
        assert output.boxes.shape == (2, 0, 4)


def test_layers_can_have_different_numbers_of_queries():
    for share_heads in (False, True):
        heads = build(share_heads=share_heads)
        queries, reference = draw()
        steps = [heads.step(i, query[:, : 5 - i], reference[:, : 5 - i]) for i, query in enumerate(queries)]
        outputs = heads.read(steps)
        assert [output.logits.shape[1] for output in outputs] == [5, 4, 3]
        for step, output in zip(steps, outputs, strict=True):
            assert_close(heads.read([step])[0].boxes, output.boxes)


@pytest.mark.parametrize("share_heads", [False, True])
def test_copies_share_heads_and_give_the_same_outputs(share_heads):
    heads = build(share_heads=share_heads, with_box_refine=True, for_encoder=True)
    queries, reference = draw()
    expected = heads.read(steps_of(heads, queries, reference)[0])
    for copied in (copy.deepcopy(heads), pickle.loads(pickle.dumps(heads))):
        assert len(set(map(id, copied.class_embed))) == len(set(map(id, heads.class_embed)))
        for actual, output in zip(copied.read(steps_of(copied, queries, reference)[0]), expected, strict=True):
            assert_close(actual.boxes, output.boxes)


def test_errors():
    with pytest.raises(ValueError, match="look_forward_twice=True needs with_box_refine=True"):
        build(look_forward_twice=True)
    with pytest.raises(ValueError, match="with_box_refine=True needs references=True"):
        build(with_box_refine=True, references=False)
