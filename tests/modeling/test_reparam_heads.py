import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.modeling import DetectionHeads, ReparamHeads

CHANNELS, CLASSES, LAYERS = 8, 3, 3


def build(kind=ReparamHeads, **arguments):
    torch.manual_seed(0)
    heads = kind(**{"embed_dim": CHANNELS, "num_classes": CLASSES, "num_layers": LAYERS, **arguments})
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.3)
    return heads.double()


def random_boxes(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 + 0.8 * torch.rand(*shape, 4, generator=generator, dtype=torch.float64)


def random_queries(number=LAYERS):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2, 5, CHANNELS, generator=generator, dtype=torch.float64) for _ in range(number)]


def run(heads, queries, reference):
    steps, attended = [], []
    for index, query in enumerate(queries):
        attended.append(reference)
        steps.append(heads.step(index, query, reference, steps[-1] if steps else None))
        reference = steps[-1].reference
    return heads.read(steps), attended


def test_boxes_are_shifted_relative_to_their_sides_and_scaled():
    heads = build()
    actual = heads.boxes(torch.tensor([[0.5, -1.0, math.log(2), 0.0]]), torch.tensor([[0.4, 0.6, 0.2, 0.1]]))
    assert_close(actual, torch.tensor([[0.5, 0.5, 0.4, 0.1]]))
    assert heads.boxes(torch.zeros(1, 4, dtype=torch.bfloat16), random_boxes(1).bfloat16()).dtype == torch.float32


def test_initial_boxes_equal_their_references():
    heads = ReparamHeads(embed_dim=CHANNELS, num_classes=CLASSES, num_layers=2, with_box_refine=True, for_encoder=True)
    reference = random_boxes(2, 5).float()
    layers, _ = run(heads, [query.float() for query in random_queries(2)], reference)
    for layer in layers:
        assert_close(layer.boxes, reference)
    proposes = torch.rand(2, 5) > 0.3
    output = heads.propose(random_queries(1)[0].float(), reference, proposes)
    assert_close(output.boxes, reference * proposes[..., None])


@pytest.mark.parametrize("kind", [DetectionHeads, ReparamHeads])
@pytest.mark.parametrize("share_heads", [True, False])
def test_lite_refinement_refines_the_initial_references_in_all_layers(kind, share_heads):
    heads = build(kind, with_box_refine=True, lite_refinement=True, share_heads=share_heads)
    queries, reference = random_queries(), random_boxes(2, 5).requires_grad_()
    layers, attended = run(heads, queries, reference)
    assert all(layer_reference is reference for layer_reference in attended)
    for query, layer, box_head in zip(queries, layers, heads.bbox_embed, strict=True):
        assert_close(layer.boxes, heads.boxes(box_head(query), reference))
        assert torch.autograd.grad(layer.boxes.sum(), reference, retain_graph=True)[0].any()


@pytest.mark.parametrize("look_forward_twice", [False, True])
def test_references_move_between_layers_without_lite_refinement(look_forward_twice):
    heads = build(with_box_refine=True, look_forward_twice=look_forward_twice)
    queries, reference = random_queries(), random_boxes(2, 5)
    layers, attended = run(heads, queries, reference)
    for index in range(1, LAYERS):
        assert_close(attended[index], layers[index - 1].boxes.detach())
        assert not attended[index].requires_grad
        box_head = heads.bbox_embed[index]
        assert_close(layers[index].boxes, heads.boxes(box_head(queries[index]), attended[index]))


@pytest.mark.parametrize("kind", [DetectionHeads, ReparamHeads])
def test_each_group_proposes_with_its_own_heads(kind):
    heads = build(kind, with_box_refine=True, for_encoder=True, encoder_groups=3, extra={"iou": nn.Linear(CHANNELS, 1)})
    tokens, anchors = random_queries(1)[0], random_boxes(2, 5)
    proposes = torch.ones(2, 5, dtype=torch.bool)
    outputs = [heads.propose(tokens, anchors, proposes, group=group) for group in range(3)]
    for group, output in enumerate(outputs):
        if group:
            group_heads = heads.group_heads[str(group)]
            class_head, box_head, iou_head = (
                group_heads["class_embed"],
                group_heads["bbox_embed"],
                group_heads["extra_embed"]["iou"],
            )
        else:
            class_head, box_head, iou_head = (
                part[-1] for part in (heads.class_embed, heads.bbox_embed, heads.extra_embed["iou"])
            )
        assert_close(output.logits, class_head(tokens))
        # Anchors of proposals lie inside the image, so that their logits are exact.
        assert_close(output.boxes, heads.proposed_boxes(box_head(tokens), anchors, proposes))
        assert_close(output.extra["iou"], iou_head(tokens))
    assert (outputs[0].logits != outputs[1].logits).all()
    assert (outputs[1].boxes != outputs[2].boxes).all()


def test_group_heads_have_the_same_initial_values():
    heads = ReparamHeads(
        embed_dim=CHANNELS, num_classes=CLASSES, num_layers=1, with_box_refine=True, for_encoder=True, encoder_groups=2
    )
    group_heads = heads.group_heads["1"]
    assert_close(group_heads["class_embed"].bias, torch.full((CLASSES,), -math.log(99)))
    assert not group_heads["bbox_embed"].layers[-1].weight.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lite_refinement": True}, "lite_refinement=True needs with_box_refine=True"),
        (
            {"lite_refinement": True, "with_box_refine": True, "look_forward_twice": True},
            "lite_refinement=True needs.*look_forward_twice=False",
        ),
        ({"encoder_groups": 2}, "encoder_groups=2.*for_encoder=True"),
        ({"encoder_groups": 0, "for_encoder": True}, "encoder_groups=0"),
    ],
)
def test_contradicting_arguments_raise_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


@pytest.mark.parametrize(("reference", "message"), [(None, "there are none"), (torch.rand(1, 2), "they are points")])
def test_references_must_be_boxes(reference, message):
    with pytest.raises(ValueError, match=message):
        build().boxes(torch.zeros(1, 4), reference)
