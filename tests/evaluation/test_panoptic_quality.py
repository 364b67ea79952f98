"""Panoptic quality agrees with a loop over sets of pixels, and with hand-computed edge cases."""

import math

import numpy as np
import pytest

from detrex_lite.evaluation.panoptic_quality import (
    METRIC_NAMES,
    Segment,
    compare_segments,
    missed_segments,
    panoptic_metrics,
)


def slow_counts(truth_ids, truth, predicted_ids, predictions, num_classes):
    """Counts by the definition, pixel by pixel and pair by pair."""

    def pixels(ids, segment_id):
        return {(y, x) for y in range(ids.shape[0]) for x in range(ids.shape[1]) if ids[y, x] == segment_id}

    counts = [[0.0, 0, 0, 0] for _ in range(num_classes)]
    void = pixels(truth_ids, 0)
    annotated = {segment: pixels(truth_ids, segment.id) for segment in truth}
    detected = {segment: pixels(predicted_ids, segment.id) for segment in predictions}
    matched = set()
    for segment, area in annotated.items():
        for prediction, predicted_area in detected.items():
            if segment.iscrowd or segment.class_index != prediction.class_index:
                continue
            visible = predicted_area - void
            if area | visible and len(area & visible) / len(area | visible) > 0.5:
                counts[segment.class_index][0] += len(area & visible) / len(area | visible)
                counts[segment.class_index][1] += 1
                assert segment not in matched
                assert prediction not in matched
                matched |= {segment, prediction}
    for prediction, area in detected.items():
        to_ignore = set(void)
        for segment in truth:
            if segment.iscrowd and segment.class_index == prediction.class_index:
                to_ignore |= annotated[segment]
        if prediction not in matched and len(area & to_ignore) / len(area) <= 0.5:
            counts[prediction.class_index][2] += 1
    for segment in truth:
        if segment not in matched and not segment.iscrowd:
            counts[segment.class_index][3] += 1
    return np.array(counts)


def random_segments(generator, shape, num_classes, crowds):
    """Overlapping rectangles with random ids, so that segments have holes and several parts; some pixels are void."""
    ids = np.zeros(shape, dtype=np.int64)
    for segment_id in generator.choice(np.arange(1, 2**24), size=generator.integers(1, 8), replace=False).tolist():
        y, x = generator.integers(0, shape[0] - 2), generator.integers(0, shape[1] - 2)
        ids[y : y + generator.integers(2, 9), x : x + generator.integers(2, 9)] = segment_id
    ids[generator.random(shape) < 0.1] = 0
    present = [segment_id for segment_id in np.unique(ids).tolist() if segment_id]
    return ids, [
        Segment(segment_id, int(generator.integers(num_classes)), bool(crowds and generator.random() < 0.3))
        for segment_id in present
    ]


@pytest.mark.parametrize("seed", range(30))
def test_counts_agree_with_a_slow_loop(seed):
    generator = np.random.default_rng(seed)
    shape, num_classes = (12, 14), 2
    truth_ids, truth = random_segments(generator, shape, num_classes, crowds=True)
    predicted_ids, predictions = random_segments(generator, shape, num_classes, crowds=False)
    if seed % 3:  # mostly matches: the annotation with some pixels and classes changed
        changed = generator.random(shape) < 0.25
        predicted_ids = np.where(changed, predicted_ids, truth_ids)
        segments = {segment.id: segment for segment in (*truth, *predictions)}
        predictions = [Segment(k, segments[k].class_index) for k in np.unique(predicted_ids).tolist() if k]
    expected = slow_counts(truth_ids, truth, predicted_ids, predictions, num_classes)
    np.testing.assert_allclose(
        compare_segments(truth_ids, truth, predicted_ids, predictions, num_classes), expected, rtol=1e-12
    )


def line(*runs):
    """One row of pixels, given as runs of (id, length)."""
    return np.array([[segment_id for segment_id, length in runs for _ in range(length)]])


CAT, ROAD = 0, 1


def compare(truth_ids, truth, predicted_ids, predictions):
    return compare_segments(truth_ids, truth, predicted_ids, predictions, 2).tolist()


def test_an_iou_of_exactly_one_half_does_not_match():
    truth, predictions = [Segment(1, CAT)], [Segment(7, CAT)]
    # 2 of 4 pixels: 0.5; 3 of 4: 0.75.
    assert compare(line((1, 4)), truth, line((7, 2), (0, 2)), predictions)[CAT] == [0, 0, 1, 1]
    assert compare(line((1, 4)), truth, line((7, 3), (0, 1)), predictions)[CAT] == [0.75, 1, 0, 0]


def test_void_pixels_are_excluded_from_the_iou():
    # Of 6 predicted pixels 4 are correct and 2 are void: the IoU is 1, not 4/6.
    counts = compare(line((1, 4), (0, 2)), [Segment(1, CAT)], line((7, 6)), [Segment(7, CAT)])
    assert counts[CAT] == [1, 1, 0, 0]


@pytest.mark.parametrize(("void_pixels", "false_positives"), [(1, 1), (2, 1), (3, 0), (4, 0)])
def test_segments_mostly_on_void_are_ignored(void_pixels, false_positives):
    """A segment of four pixels is a false positive when at most half of them are void."""
    truth_ids = line((0, void_pixels), (1, 4 - void_pixels), (1, 4))
    counts = compare(truth_ids, [Segment(1, ROAD)], line((7, 4), (0, 4)), [Segment(7, CAT)])
    assert counts == [[0, 0, false_positives, 0], [0, 0, 0, 1]]


def test_crowds_are_ignored():
    crowd = [Segment(1, CAT, iscrowd=True)]
    assert compare(line((1, 4)), crowd, line((7, 4)), [Segment(7, CAT)]) == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert compare(line((1, 4)), crowd, line((0, 4)), []) == [[0, 0, 0, 0], [0, 0, 0, 0]]
    # In a crowd of another class, a segment is a false positive.
    assert compare(line((1, 4)), crowd, line((7, 4)), [Segment(7, ROAD)])[ROAD] == [0, 0, 1, 0]
    # Segments are ignored when more than half of their pixels are crowd or void; exactly half is not enough.
    crowd_and_road = [Segment(1, CAT, iscrowd=True), Segment(2, ROAD)]
    assert compare(line((1, 2), (2, 2)), crowd_and_road, line((7, 4)), [Segment(7, CAT)])[CAT] == [0, 0, 1, 0]
    assert compare(line((1, 2), (0, 1), (2, 1)), crowd_and_road, line((7, 4)), [Segment(7, CAT)])[CAT] == [0, 0, 0, 0]


def test_crowds_of_one_class_are_merged():
    truth = [Segment(1, CAT, iscrowd=True), Segment(2, CAT, iscrowd=True), Segment(3, ROAD)]
    assert compare(line((1, 2), (2, 1), (3, 1)), truth, line((7, 4)), [Segment(7, CAT)])[CAT] == [0, 0, 0, 0]


def test_counts_without_predictions_or_without_annotations():
    truth = [Segment(1, CAT), Segment(2, CAT, iscrowd=True), Segment(3, ROAD), Segment(4, ROAD)]
    ids = line((1, 1), (2, 1), (3, 1), (4, 1))
    missed = [[0, 0, 0, 1], [0, 0, 0, 2]]
    assert compare(ids, truth, line((0, 4)), []) == missed
    classes, crowds = (np.array([getattr(segment, name) for segment in truth]) for name in ("class_index", "iscrowd"))
    assert missed_segments(classes, crowds, 2).tolist() == missed
    # Without annotations all pixels are void, so no segment is a false positive.
    assert compare(line((0, 4)), [], line((7, 4)), [Segment(7, CAT)]) == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert compare(line((0, 4)), [], line((0, 4)), []) == [[0, 0, 0, 0], [0, 0, 0, 0]]


def test_an_annotated_segment_without_pixels_is_missed():
    assert compare(line((0, 4)), [Segment(9, CAT)], line((0, 4)), [])[CAT] == [0, 0, 0, 1]


def test_metrics_are_computed_from_counts():
    """cat: two pairs of IoU 0.8 and 0.6, one false positive, one missed; dog: missed; road: perfect; sky: absent."""
    counts = np.array([[1.4, 2, 1, 1], [0, 0, 0, 3], [1, 1, 0, 0], [0, 0, 0, 0]])
    metrics = panoptic_metrics(counts, ["cat", "dog", "road", "sky"], [True, True, False, False])
    assert tuple(metrics)[: len(METRIC_NAMES)] == METRIC_NAMES
    expected = {"PQ-cat": 140 / 3, "SQ-cat": 70, "RQ-cat": 200 / 3, "PQ-dog": 0, "SQ-dog": 0, "RQ-dog": 0}
    expected |= {"PQ-road": 100, "SQ-road": 100, "RQ-road": 100, "PQ-sky": math.nan, "SQ-sky": math.nan}
    expected |= {"PQ": (140 / 3 + 0 + 100) / 3, "SQ": 170 / 3, "RQ": (200 / 3 + 100) / 3, "RQ-sky": math.nan}
    expected |= {"PQ_th": 70 / 3, "SQ_th": 35, "RQ_th": 100 / 3, "PQ_st": 100, "SQ_st": 100, "RQ_st": 100}
    assert metrics == pytest.approx(expected, nan_ok=True)
    for name in ("cat", "road"):
        assert metrics[f"PQ-{name}"] == pytest.approx(metrics[f"SQ-{name}"] * metrics[f"RQ-{name}"] / 100)


def test_metrics_without_segments_are_nan():
    metrics = panoptic_metrics(np.zeros((2, 4)), ["cat", "road"], [True, False])
    assert all(math.isnan(value) for value in metrics.values())
    only_things = panoptic_metrics(np.array([[1.0, 1, 0, 0], [0, 0, 0, 0]]), ["cat", "road"], [True, False])
    assert only_things["PQ"] == only_things["PQ_th"] == 100
    assert math.isnan(only_things["PQ_st"])


@pytest.mark.parametrize(
    ("truth_ids", "truth", "predicted_ids", "predictions", "message"),
    [
        (line((1, 4)), [Segment(1, 0)], line((7, 5)), [Segment(7, 0)], "1 x 5 pixels .* 1 x 4"),
        (line((1, 4)), [Segment(1, 0)], line((7, 4)), [], "the id 7, .* no found segment"),
        (line((1, 4)), [], line((0, 4)), [], "the id 1, .* no annotated segment"),
        (line((1, 4)), [Segment(1, 0)], line((9, 4)), [Segment(7, 0)], "the id 9, .* no found"),
        (line((0, 4)), [], line((0, 4)), [Segment(7, 0)], "segment 7 .*no pixel"),
        (line((0, 4)), [], line((7, 4)), [Segment(7, 0)] * 2, "found segment at position 1 has the id 7, .* another"),
        (line((0, 4)), [], line((0, 4)), [Segment(0, 0)], "found segment at position 0 has the id 0, .* void"),
    ],
)
def test_inconsistent_segmentations_raise_an_error(truth_ids, truth, predicted_ids, predictions, message):
    with pytest.raises(ValueError, match=message):
        compare_segments(truth_ids, truth, predicted_ids, predictions, 1)
