import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import Predictions, SoftmaxPostprocessor, TopKPostprocessor

BOXES = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.1, 0.2], [1.0, 1.0, 0.5, 0.5]]])


def test_softmax_takes_the_best_class_except_background():
    logits = torch.tensor([[[1.0, 0.0, 5.0], [0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]])
    (detections,) = SoftmaxPostprocessor()(Predictions(logits, BOXES), [(100, 200)])
    assert detections.image_size == (100, 200)
    assert detections.pred_classes.tolist() == [0, 1, 0]
    assert_close(detections.scores, logits[0].softmax(-1)[torch.arange(3), detections.pred_classes])
    expected = torch.tensor([[50.0, 25, 150, 75], [40, 40, 60, 60], [150, 75, 200, 100]])  # the last box is clipped
    assert_close(detections.pred_boxes.tensor, expected)


def test_top_k_takes_pairs_of_query_and_class():
    logits = torch.tensor([[[2.0, 3.0], [-1.0, -2.0], [4.0, -3.0]]])
    (detections,) = TopKPostprocessor(3)(Predictions(logits, BOXES), [(100, 200)])
    assert detections.pred_classes.tolist() == [0, 1, 0]
    assert_close(detections.scores, torch.tensor([4.0, 3.0, 2.0]).sigmoid())
    assert_close(detections.pred_boxes.tensor[1], torch.tensor([50.0, 25, 150, 75]))
    assert_close(detections.pred_boxes.tensor[1], detections.pred_boxes.tensor[2])


def test_top_k_is_limited_by_the_number_of_scores():
    (detections,) = TopKPostprocessor(300)(Predictions(torch.zeros(1, 3, 2), BOXES), [(10, 10)])
    assert len(detections) == 6


def test_boxes_without_area_inside_the_frame_are_dropped():
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [1.5, 1.5, 0.2, 0.2], [0.5, 0.5, 0.0, 0.5]]])
    (detections,) = SoftmaxPostprocessor()(Predictions(torch.zeros(1, 3, 3), boxes), [(10, 10)])
    assert len(detections) == 1


@pytest.mark.parametrize("kind", [SoftmaxPostprocessor, TopKPostprocessor])
def test_boxes_are_kept_unchanged_without_clipping(kind):
    boxes = torch.tensor([[[1.0, 1.0, 0.5, 0.5], [1.5, 1.5, 0.2, 0.2], [0.5, 0.5, 0.0, 0.5]]])
    (detections,) = kind(clip_boxes=False)(
        Predictions(torch.tensor([[[3.0, -9], [2, -9], [1, -9]]]), boxes), [(10, 20)]
    )
    expected = torch.tensor([[15, 7.5, 25, 12.5], [28, 14, 32, 16], [10, 2.5, 10, 7.5]])
    assert_close(detections.pred_boxes.tensor[:3], expected)
    assert len(detections) == (3 if kind is SoftmaxPostprocessor else 6)


def test_scores_of_half_precision_are_float32():
    (detections,) = SoftmaxPostprocessor()(Predictions(torch.zeros(1, 3, 3).bfloat16(), BOXES.bfloat16()), [(10, 10)])
    assert detections.scores.dtype == detections.pred_boxes.tensor.dtype == torch.float32


@pytest.mark.parametrize("clip_boxes", [True, False])
@pytest.mark.parametrize("kind", [SoftmaxPostprocessor, TopKPostprocessor])
def test_padding_queries_give_no_detections(kind, clip_boxes):
    logits = torch.tensor([[[1.0, 2.0, 0.0], [9.0, 9.0, 0.0], [-200.0, 0.5, 0.0]]])
    padding = torch.tensor([[False, True, False]])
    (detections,) = kind(clip_boxes=clip_boxes)(Predictions(logits, BOXES, padding=padding), [(100, 200)])
    kept = Predictions(logits[:, [0, 2]], BOXES[:, [0, 2]])
    (expected,) = kind(clip_boxes=clip_boxes)(kept, [(100, 200)])
    assert len(expected) > 0
    for field in ("scores", "pred_classes"):
        assert_close(detections.get(field), expected.get(field))
    assert_close(detections.pred_boxes.tensor, expected.pred_boxes.tensor)
