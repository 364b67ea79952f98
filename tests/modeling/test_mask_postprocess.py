"""Detections with masks and panoptic segments, compared with loops."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detrex_lite.modeling import (
    MaskFeatures,
    MaskFormerPanoptic,
    MaskPostprocessor,
    Predictions,
    SoftmaxMaskPostprocessor,
    SoftmaxPanoptic,
    masks,
)

IMAGES = [(14, 18), (9, 20)]  # the second image ends in the middle of a cell
FRAMES = [(28, 36), (30, 40)]


def predictions_of_masks(classes=3, queries=6, seed=0):
    torch.manual_seed(seed)
    features = MaskFeatures(torch.randn(2, 4, 4, 5, dtype=torch.float64), 4)
    logits, boxes = torch.randn(2, queries, classes, dtype=torch.float64), torch.rand(2, queries, 4).double()
    embeddings = torch.randn(2, queries, 4, dtype=torch.float64)
    return Predictions(logits, boxes, {masks.MASK_EMBEDDING: embeddings}, mask_features=features, image_sizes=IMAGES)


def reference_logits(predictions, image, query):
    """Mask logits in the output frame: cells resized to pixels, cropped, and resized to the frame."""
    height, width = IMAGES[image]
    cells = predictions.mask_features.tensor[image, :, : -(-height // 4), : -(-width // 4)]
    logits = torch.einsum("c,chw->hw", predictions.extra[masks.MASK_EMBEDDING][image, query], cells)[None, None]
    pixels = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)[..., :height, :width]
    return F.interpolate(pixels, FRAMES[image], mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("part", [1, masks.PART])
@pytest.mark.parametrize("num_things", [None, 2])
def test_scores_of_the_best_pairs_are_multiplied_by_mask_quality(monkeypatch, part, num_things):
    monkeypatch.setattr("detrex_lite.modeling.mask_postprocess.PART", part)
    predictions = predictions_of_masks()
    results = MaskPostprocessor(8, clip_boxes=False, num_things=num_things)(predictions, FRAMES)
    for image, detections in enumerate(results):
        rows = []
        scores = predictions.logits[image].sigmoid()
        best = sorted(((scores[q, c].item(), q, c) for q in range(6) for c in range(3)), reverse=True)[:8]
        for score, query, label in best:
            if num_things is not None and label >= num_things:
                continue
            logits = reference_logits(predictions, image, query)
            inside = logits > 0
            rating = logits[inside].sigmoid().sum() / (inside.sum() + 1e-6)
            rows.append((score * rating.item(), label, inside))
        rows.sort(key=lambda row: -row[0])
        assert_close(detections.scores, torch.tensor([row[0] for row in rows], dtype=torch.float64))
        assert detections.pred_classes.tolist() == [row[1] for row in rows]
        assert torch.equal(detections.pred_masks, torch.stack([row[2] for row in rows]))


def test_scores_are_those_of_classes_without_rate_masks():
    predictions = predictions_of_masks()
    (detections, _) = MaskPostprocessor(8, clip_boxes=False, rate_masks=False)(predictions, FRAMES)
    assert_close(detections.scores, predictions.logits[0].sigmoid().flatten().sort(descending=True).values[:8])


def test_an_image_without_detections_has_no_masks():
    predictions = predictions_of_masks()
    predictions.boxes[:] = 2.0  # outside the image, so that clipping leaves no area
    (detections, _) = MaskPostprocessor(8)(predictions, FRAMES)
    assert detections.pred_masks.shape == (0, 28, 36)
    assert detections.pred_masks.dtype == torch.bool


def reference_panoptic(predictions, image, num_things, threshold, overlap, temperature):
    probability = predictions.logits[image].sigmoid()
    kept = [query for query in range(len(probability)) if probability[query].max() > threshold]
    scaled = (probability / temperature).softmax(-1)
    scores = [scaled[query].max().item() for query in kept]
    labels = [scaled[query].argmax().item() for query in kept]
    maps = [reference_logits(predictions, image, query).sigmoid() for query in kept]
    height, width = FRAMES[image]
    owner = [
        [max(range(len(kept)), key=lambda k: scores[k] * maps[k][y, x].item()) for x in range(width)]
        for y in range(height)
    ]
    ids, segments, stuff_segments = torch.zeros(height, width, dtype=torch.int32), [], {}
    for k, label in enumerate(labels):
        owned_pixels = [(y, x) for y in range(height) for x in range(width) if owner[y][x] == k]
        visible = [pixel for pixel in owned_pixels if maps[k][pixel] >= 0.5]
        mask_area = int((maps[k] >= 0.5).sum())
        if not visible or len(owned_pixels) / mask_area < overlap:
            continue
        segment = stuff_segments.get(label)
        if segment is None:
            segment = {"id": len(segments) + 1, "isthing": label < num_things, "category_id": label}
            segment |= {"score": scores[k], "area": 0}
            segments.append(segment)
            if label >= num_things:
                stuff_segments[label] = segment
        segment["area"] += len(visible)
        for pixel in visible:
            ids[pixel] = segment["id"]
    return ids, segments


@pytest.mark.parametrize("part", [1, masks.PART])
def test_pixels_belong_to_the_best_mask(monkeypatch, part):
    monkeypatch.setattr("detrex_lite.modeling.mask_postprocess.PART", part)
    kinds = set()
    for seed in range(3):
        predictions = predictions_of_masks(seed=seed, queries=9)
        results = MaskFormerPanoptic(num_things=1, threshold=0.6, overlap=0.4, temperature=0.1)(predictions, FRAMES)
        for image, (ids, segments) in enumerate(results):
            expected_ids, expected = reference_panoptic(predictions, image, 1, 0.6, 0.4, 0.1)
            assert torch.equal(ids, expected_ids)
            assert [{**segment, "score": 0} for segment in segments] == [
                {**segment, "score": 0} for segment in expected
            ]
            assert [segment["score"] for segment in segments] == pytest.approx(
                [segment["score"] for segment in expected]
            )
            kinds |= {segment["isthing"] for segment in segments}
    assert kinds == {True, False}


def test_an_image_without_segments_has_an_empty_map():
    for panoptic in (MaskFormerPanoptic(num_things=1, threshold=1.0), SoftmaxPanoptic(num_things=1, threshold=1.0)):
        predictions = predictions_of_masks()
        predictions.extra[masks.MASK_LOGITS] = torch.randn(2, 6, 4, 5)
        ids, segments = panoptic(predictions, FRAMES)[0]
        assert ids.shape == (28, 36)
        assert ids.dtype == torch.int32
        assert not ids.any()
        assert segments == []


def confident_predictions(maps, labels, classes=3):
    """Predictions of one image of 8x8 pixels with these masks, and scores close to 1 for these labels."""
    logits = torch.full((1, len(labels), classes + 1), -9.0)
    logits[0, range(len(labels)), labels] = 9.0
    maps = torch.tensor(maps, dtype=torch.float32)[None]
    return Predictions(logits, torch.rand(1, len(labels), 4), {masks.MASK_LOGITS: maps}, image_sizes=[(8, 8)])


LEFT, RIGHT, ALL = [[5.0, -5], [5, -5]], [[-5.0, 5], [-5, 5]], [[1.0, 1], [1, 1]]


def test_stuff_of_one_class_is_joined_and_things_are_not():
    predictions = confident_predictions([LEFT, RIGHT], [2, 2])
    ((ids, segments),) = SoftmaxPanoptic(num_things=3)(predictions, [(16, 16)])
    assert [segment["area"] for segment in segments] == [128, 128]
    # The second mask has no pixels left and is dropped; then all pixels belong to the first mask.
    ((ids, segments),) = SoftmaxPanoptic(num_things=2)(predictions, [(16, 16)])
    assert (ids == 1).all()
    assert [(segment["id"], segment["isthing"], segment["category_id"], segment["area"]) for segment in segments] == [
        (1, False, 2, 256)
    ]


def test_pixels_of_a_joined_mask_go_to_the_next_best_mask():
    """As in the paper's repository, masks are not joined again after a mask was dropped."""
    # Resized, LEFT has the logits 5, 5, 3.75, 1.25 and -1.25 in the first columns; RIGHT is its mirror image.
    middle = [[2.0, 2], [2, 2]]
    ((ids, segments),) = SoftmaxPanoptic(num_things=2)(
        confident_predictions([LEFT, RIGHT, middle], [2, 2, 0]), [(8, 8)]
    )
    assert [(segment["category_id"], segment["area"]) for segment in segments] == [(2, 24), (0, 40)]
    assert (ids[:, :3] == 1).all()
    assert (ids[:, 3:] == 2).all()


def test_background_and_uncertain_queries_give_no_segments():
    predictions = confident_predictions([LEFT, RIGHT, ALL], [0, 3, 1])  # the last class is "no object"
    predictions.logits[0, 2] = 0.0
    ((ids, segments),) = SoftmaxPanoptic(num_things=2)(predictions, [(8, 8)])
    assert (ids == 1).all()
    assert len(segments) == 1


def test_masks_of_detr_are_resized_to_the_input_and_then_by_nearest_neighbour():
    torch.manual_seed(0)
    maps = torch.randn(3, 2, 2)
    predictions = confident_predictions(maps.tolist(), [0, 1, 2])
    (detections,) = SoftmaxMaskPostprocessor(clip_boxes=False)(predictions, [(20, 12)])
    pixels = F.interpolate(maps[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0] > 0
    rows, columns = torch.arange(20) * 8 // 20, torch.arange(12) * 8 // 12
    assert torch.equal(detections.pred_masks, pixels[:, rows[:, None], columns])
    (things,) = SoftmaxMaskPostprocessor(clip_boxes=False, num_things=2)(predictions, [(20, 12)])
    assert torch.equal(things.pred_masks, detections.pred_masks[:2])
