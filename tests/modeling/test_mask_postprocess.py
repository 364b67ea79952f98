"""Detections with masks and panoptic segments, against slow loops."""

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

IMAGES = [(14, 18), (9, 20)]  # the second one ends in the middle of a cell
FRAMES = [(28, 36), (30, 40)]


def predictions_of_masks(classes=3, queries=6, seed=0):
    torch.manual_seed(seed)
    features = MaskFeatures(torch.randn(2, 4, 4, 5, dtype=torch.float64), 4)
    logits, boxes = torch.randn(2, queries, classes, dtype=torch.float64), torch.rand(2, queries, 4).double()
    embeddings = torch.randn(2, queries, 4, dtype=torch.float64)
    return Predictions(logits, boxes, {masks.MASK_EMBEDDING: embeddings}, mask_features=features, image_sizes=IMAGES)


def slow_logits(predictions, image, query):
    """A mask in its frame: cells of the image to pixels, cropped, to the frame."""
    height, width = IMAGES[image]
    cells = predictions.mask_features.tensor[image, :, : -(-height // 4), : -(-width // 4)]
    logits = torch.einsum("c,chw->hw", predictions.extra[masks.MASK_EMBEDDING][image, query], cells)[None, None]
    pixels = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)[..., :height, :width]
    return F.interpolate(pixels, FRAMES[image], mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("part", [1, masks.PART])
@pytest.mark.parametrize("num_things", [None, 2])
def test_the_best_pairs_with_masks_rated_by_these(monkeypatch, part, num_things):
    monkeypatch.setattr("detrex_lite.modeling.mask_postprocess.PART", part)
    predictions = predictions_of_masks()
    results = MaskPostprocessor(8, clip_boxes=False, num_things=num_things)(predictions, FRAMES)
    for image, found in enumerate(results):
        rows = []
        scores = predictions.logits[image].sigmoid()
        best = sorted(((scores[q, c].item(), q, c) for q in range(6) for c in range(3)), reverse=True)[:8]
        for score, query, label in best:
            if num_things is not None and label >= num_things:
                continue
            logits = slow_logits(predictions, image, query)
            inside = logits > 0
            rating = logits[inside].sigmoid().sum() / (inside.sum() + 1e-6)
            rows.append((score * rating.item(), label, inside))
        rows.sort(key=lambda row: -row[0])
        assert_close(found.scores, torch.tensor([row[0] for row in rows], dtype=torch.float64))
        assert found.pred_classes.tolist() == [row[1] for row in rows]
        assert torch.equal(found.pred_masks, torch.stack([row[2] for row in rows]))


def test_scores_of_classes_alone():
    predictions = predictions_of_masks()
    (found, _) = MaskPostprocessor(8, clip_boxes=False, rate_masks=False)(predictions, FRAMES)
    assert_close(found.scores, predictions.logits[0].sigmoid().flatten().sort(descending=True).values[:8])


def test_an_image_without_detections_has_no_masks():
    predictions = predictions_of_masks()
    predictions.boxes[:] = 2.0  # beside the image: nothing is left when they are clipped
    (found, _) = MaskPostprocessor(8)(predictions, FRAMES)
    assert found.pred_masks.shape == (0, 28, 36)
    assert found.pred_masks.dtype == torch.bool


def slow_panoptic(predictions, image, num_things, threshold, overlap, temperature):
    probability = predictions.logits[image].sigmoid()
    kept = [query for query in range(len(probability)) if probability[query].max() > threshold]
    scaled = (probability / temperature).softmax(-1)
    scores = [scaled[query].max().item() for query in kept]
    labels = [scaled[query].argmax().item() for query in kept]
    maps = [slow_logits(predictions, image, query).sigmoid() for query in kept]
    height, width = FRAMES[image]
    owner = [
        [max(range(len(kept)), key=lambda k: scores[k] * maps[k][y, x].item()) for x in range(width)]
        for y in range(height)
    ]
    ids, segments, of_stuff = torch.zeros(height, width, dtype=torch.int32), [], {}
    for k, label in enumerate(labels):
        owned = [(y, x) for y in range(height) for x in range(width) if owner[y][x] == k]
        visible = [place for place in owned if maps[k][place] >= 0.5]
        whole = int((maps[k] >= 0.5).sum())
        if not visible or len(owned) / whole < overlap:
            continue
        segment = of_stuff.get(label)
        if segment is None:
            segment = {"id": len(segments) + 1, "isthing": label < num_things, "category_id": label}
            segment |= {"score": scores[k], "area": 0}
            segments.append(segment)
            if label >= num_things:
                of_stuff[label] = segment
        segment["area"] += len(visible)
        for place in visible:
            ids[place] = segment["id"]
    return ids, segments


@pytest.mark.parametrize("part", [1, masks.PART])
def test_pixels_go_to_the_best_mask(monkeypatch, part):
    monkeypatch.setattr("detrex_lite.modeling.mask_postprocess.PART", part)
    seen = set()
    for seed in range(3):
        predictions = predictions_of_masks(seed=seed, queries=9)
        results = MaskFormerPanoptic(num_things=1, threshold=0.6, overlap=0.4, temperature=0.1)(predictions, FRAMES)
        for image, (ids, segments) in enumerate(results):
            want_ids, want = slow_panoptic(predictions, image, 1, 0.6, 0.4, 0.1)
            assert torch.equal(ids, want_ids)
            assert [{**one, "score": 0} for one in segments] == [{**one, "score": 0} for one in want]
            assert [one["score"] for one in segments] == pytest.approx([one["score"] for one in want])
            seen |= {one["isthing"] for one in segments}
    assert seen == {True, False}


def test_nothing_found_is_an_empty_map():
    for panoptic in (MaskFormerPanoptic(num_things=1, threshold=1.0), SoftmaxPanoptic(num_things=1, threshold=1.0)):
        predictions = predictions_of_masks()
        predictions.extra[masks.MASK_LOGITS] = torch.randn(2, 6, 4, 5)
        ids, segments = panoptic(predictions, FRAMES)[0]
        assert ids.shape == (28, 36)
        assert ids.dtype == torch.int32
        assert not ids.any()
        assert segments == []


def whole(maps, labels, classes=3):
    """Predictions that are certain of these labels, of one image of 8x8 pixels."""
    logits = torch.full((1, len(labels), classes + 1), -9.0)
    logits[0, range(len(labels)), labels] = 9.0
    maps = torch.tensor(maps, dtype=torch.float32)[None]
    return Predictions(logits, torch.rand(1, len(labels), 4), {masks.MASK_LOGITS: maps}, image_sizes=[(8, 8)])


LEFT, RIGHT, ALL = [[5.0, -5], [5, -5]], [[-5.0, 5], [-5, 5]], [[1.0, 1], [1, 1]]


def test_stuff_of_one_class_is_joined_and_things_are_not():
    predictions = whole([LEFT, RIGHT], [2, 2])
    ((ids, segments),) = SoftmaxPanoptic(num_things=3)(predictions, [(16, 16)])
    assert [one["area"] for one in segments] == [128, 128]
    # The second mask is left without pixels and dropped, and then everything belongs to the first one.
    ((ids, segments),) = SoftmaxPanoptic(num_things=2)(predictions, [(16, 16)])
    assert (ids == 1).all()
    assert [(one["id"], one["isthing"], one["category_id"], one["area"]) for one in segments] == [(1, False, 2, 256)]


def test_what_belonged_to_a_joined_mask_goes_to_the_next_best_one():
    """As in the paper's repository, which does not join masks again after it dropped one."""
    # Enlarged, LEFT has the logits 5, 5, 3.75, 1.25 and -1.25 in the first columns, and RIGHT the same from the right.
    middle = [[2.0, 2], [2, 2]]
    ((ids, segments),) = SoftmaxPanoptic(num_things=2)(whole([LEFT, RIGHT, middle], [2, 2, 0]), [(8, 8)])
    assert [(one["category_id"], one["area"]) for one in segments] == [(2, 24), (0, 40)]
    assert (ids[:, :3] == 1).all()
    assert (ids[:, 3:] == 2).all()


def test_queries_without_an_object_or_unsure_ones_are_left_out():
    predictions = whole([LEFT, RIGHT, ALL], [0, 3, 1])  # the last class is "no object"
    predictions.logits[0, 2] = 0.0
    ((ids, segments),) = SoftmaxPanoptic(num_things=2)(predictions, [(8, 8)])
    assert (ids == 1).all()
    assert len(segments) == 1


def test_masks_of_detr_are_enlarged_to_the_input_and_then_repeated():
    torch.manual_seed(0)
    maps = torch.randn(3, 2, 2)
    predictions = whole(maps.tolist(), [0, 1, 2])
    (found,) = SoftmaxMaskPostprocessor(clip_boxes=False)(predictions, [(20, 12)])
    pixels = F.interpolate(maps[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0] > 0
    rows, columns = torch.arange(20) * 8 // 20, torch.arange(12) * 8 // 12
    assert torch.equal(found.pred_masks, pixels[:, rows[:, None], columns])
    (things,) = SoftmaxMaskPostprocessor(clip_boxes=False, num_things=2)(predictions, [(20, 12)])
    assert torch.equal(things.pred_masks, found.pred_masks[:2])
