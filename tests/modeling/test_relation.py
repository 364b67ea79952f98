import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import PositionRelation

HEADS = 4


def build(dtype=torch.float64, **arguments):
    torch.manual_seed(0)
    return PositionRelation(num_heads=HEADS, num_pos_feats=6, **arguments).to(dtype)


def boxes_of(seed, queries=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 0.05 + 0.9 * torch.rand(2, queries, 4, generator=generator, dtype=dtype)


def bias_in_a_loop(relation, previous, boxes):
    """Equations 4 and 5 of the paper, pair by pair and number by number."""
    batch, queries = boxes.shape[:2]
    bias = torch.zeros(batch, HEADS, queries, queries, dtype=torch.float64)
    for image, i, j in itertools.product(range(batch), range(queries), range(queries)):
        (x, y, w, h), (other_x, other_y, other_w, other_h) = previous[image, i].tolist(), boxes[image, j].tolist()
        w, h, other_w, other_h = (side + relation.eps for side in (w, h, other_w, other_h))
        numbers = [
            math.log(abs(x - other_x) / w + 1),
            math.log(abs(y - other_y) / h + 1),
            math.log(w / other_w),
            math.log(h / other_h),
        ]
        embedded = []
        for number in numbers:
            for channel in range(relation.num_pos_feats // 2):
                wavelength = relation.temperature ** (2 * channel / relation.num_pos_feats)
                angle = number * relation.scale / wavelength
                embedded += [math.sin(angle), math.cos(angle)]
        projected = relation.pos_proj(torch.tensor(embedded, dtype=torch.float64))
        bias[image, :, i, j] = projected.clamp(min=0)
    return bias


@pytest.mark.parametrize("arguments", [{}, {"temperature": 50.0, "scale": 3.0, "eps": 0.1}])
def test_the_bias_agrees_with_a_loop_over_pairs(arguments):
    relation = build(**arguments)
    previous, boxes = boxes_of(0), boxes_of(1)
    actual = relation(previous, boxes)
    assert actual.shape == (2, HEADS, 5, 5)
    assert actual.any()
    assert_close(actual, bias_in_a_loop(relation, previous, boxes))


def test_permuting_queries_permutes_rows_and_columns():
    relation, order = build(), torch.tensor([3, 0, 4, 1, 2])
    previous, boxes = boxes_of(0), boxes_of(1)
    actual = relation(previous[:, order], boxes[:, order])
    assert_close(actual, relation(previous, boxes)[:, :, order][:, :, :, order])


def test_boxes_get_no_gradients():
    relation = build()
    previous, boxes = boxes_of(0).requires_grad_(), boxes_of(1).requires_grad_()
    relation(previous, boxes).sum().backward()
    assert previous.grad is None
    assert boxes.grad is None
    assert relation.pos_proj.weight.grad.any()


def test_boxes_without_area_have_a_finite_bias():
    relation = build(torch.float32)
    boxes = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.1, 0.9, 1.0, 1.0], [0.5, 0.5, 0.0, 0.0]]])
    assert torch.isfinite(relation(boxes, boxes)).all()


def test_no_queries_have_an_empty_bias():
    assert build()(boxes_of(0, queries=0), boxes_of(1, queries=0)).shape == (2, HEADS, 0, 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_projection_can_be_quantised():
    quantization = pytest.importorskip("torch.ao.quantization")
    relation = build(torch.float32)
    boxes = boxes_of(1, dtype=torch.float32)
    expected = relation(boxes, boxes)
    try:
        quantised = quantization.quantize_dynamic(relation, {torch.nn.Linear})
    except RuntimeError as error:  # torch was built without a quantization engine
        pytest.skip(str(error))
    assert_close(quantised(boxes, boxes), expected, rtol=0, atol=0.1)


def test_half_precision_models_compare_boxes_in_float32():
    in_float32 = build(torch.float32)
    half = build(torch.bfloat16)
    previous, boxes = boxes_of(0, dtype=torch.float32), boxes_of(1, dtype=torch.float32)
    actual = half(previous, boxes)
    assert actual.dtype == torch.bfloat16
    assert_close(actual.float(), in_float32(previous, boxes), rtol=0.05, atol=0.03)
