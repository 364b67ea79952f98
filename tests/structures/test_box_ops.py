import pytest
import torch
import torchvision

from detrex_lite.structures import (
    box_cxcywh_to_xyxy,
    box_xyxy_to_cxcywh,
    generalized_box_iou,
    inverse_sigmoid,
    pairwise_generalized_box_iou,
    pairwise_iou,
)

DTYPES = [torch.float32, torch.float64]


def random_boxes(count, seed, dtype=torch.float64):
    """(count, 4) xyxy in 0..1 with sides of at least 0.01."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator, dtype=dtype) * 0.5
    return torch.cat([low, low + 0.01 + torch.rand(count, 2, generator=generator, dtype=dtype) * 0.49], dim=-1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_formats_round_trip(dtype):
    boxes = random_boxes(50, seed=0, dtype=dtype).reshape(5, 10, 4)
    converted = box_cxcywh_to_xyxy(box_xyxy_to_cxcywh(boxes))
    assert converted.dtype == dtype
    torch.testing.assert_close(converted, boxes)


def test_formats_convert_corners_and_centres():
    xyxy, cxcywh = torch.tensor([[10.0, 20.0, 40.0, 100.0]]), torch.tensor([[25.0, 60.0, 30.0, 80.0]])
    torch.testing.assert_close(box_xyxy_to_cxcywh(xyxy), cxcywh)
    torch.testing.assert_close(box_cxcywh_to_xyxy(cxcywh), xyxy)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pairwise_overlaps_agree_with_torchvision(dtype):
    a, b = random_boxes(40, seed=1, dtype=dtype), random_boxes(30, seed=2, dtype=dtype)
    torch.testing.assert_close(pairwise_iou(a, b), torchvision.ops.box_iou(a, b))
    torch.testing.assert_close(pairwise_generalized_box_iou(a, b), torchvision.ops.generalized_box_iou(a, b))


def test_pairwise_overlaps_of_a_batch_are_computed_per_image():
    a, b = random_boxes(12, seed=3).reshape(3, 4, 4), random_boxes(15, seed=4).reshape(3, 5, 4)
    batched = pairwise_generalized_box_iou(a, b)
    assert batched.shape == (3, 4, 5)
    for image in range(3):
        torch.testing.assert_close(batched[image], pairwise_generalized_box_iou(a[image], b[image]))


def test_elementwise_overlap_is_the_diagonal_of_pairwise_overlaps():
    a, b = random_boxes(20, seed=5), random_boxes(20, seed=6)
    torch.testing.assert_close(generalized_box_iou(a, b), pairwise_generalized_box_iou(a, b).diagonal())


def test_overlaps_of_simple_boxes_are_exact():
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0])
    half, apart = torch.tensor([0.0, 0.0, 0.5, 1.0]), torch.tensor([3.0, 0.0, 4.0, 1.0])
    assert generalized_box_iou(unit, unit).item() == 1.0
    assert generalized_box_iou(unit, half).item() == 0.5
    assert generalized_box_iou(unit, apart).item() == -0.5  # neither box covers 2 of the 4 units of the enclosing box
    assert pairwise_iou(unit[None], torch.stack([half, apart])).tolist() == [[0.5, 0.0]]


def test_boxes_without_area_give_finite_overlaps_and_gradients():
    point, line, box = [0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.2, 0.9], [0.1, 0.1, 0.9, 0.9]
    boxes = torch.tensor([point, line, box], requires_grad=True)
    overlaps = pairwise_generalized_box_iou(boxes, boxes.detach())
    assert overlaps.isfinite().all()
    assert ((overlaps >= -1) & (overlaps <= 1)).all()
    assert overlaps[0, 0].item() == 0.0
    assert pairwise_iou(boxes, boxes).diagonal().tolist() == [0.0, 0.0, 1.0]
    overlaps[:, 2].sum().backward()  # targets always have an area
    assert boxes.grad.isfinite().all()


def test_overlaps_of_tiny_boxes_keep_their_precision():
    boxes = random_boxes(5, seed=7) * 1e-6
    torch.testing.assert_close(
        pairwise_iou(boxes.float(), boxes.float()), pairwise_iou(boxes, boxes).float(), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0)])
def test_no_boxes_give_empty_results(rows, columns):
    a, b = torch.zeros(rows, 4), torch.zeros(columns, 4)
    assert pairwise_iou(a, b).shape == (rows, columns)
    assert pairwise_generalized_box_iou(a, b).shape == (rows, columns)
    assert box_cxcywh_to_xyxy(a).shape == box_xyxy_to_cxcywh(a).shape == (rows, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inverse_sigmoid_inverts_and_stays_finite_at_the_ends(dtype):
    logits = torch.linspace(-9, 9, 19, dtype=dtype)
    torch.testing.assert_close(inverse_sigmoid(logits.sigmoid(), eps=1e-5), logits, rtol=1e-3, atol=1e-3)
    ends = inverse_sigmoid(torch.tensor([0.0, 1.0, -0.5, 1.5], dtype=dtype), eps=1e-5)
    limit = float(torch.logit(torch.tensor(1e-5, dtype=torch.float64)))
    torch.testing.assert_close(ends.double().abs(), torch.full((4,), -limit).double(), rtol=1e-3, atol=0)
    assert ends.sign().tolist() == [-1, 1, -1, 1]
