"""Panoptic quality against a loop over sets of pixels, and at its borders."""

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


def slow_counts(truth_ids, truth, found_ids, found, num_classes):
    """The definition, pixel by pixel and pair by pair."""

    def pixels(ids, one):
        return {(y, x) for y in range(ids.shape[0]) for x in range(ids.shape[1]) if ids[y, x] == one}

    counts = [[0.0, 0, 0, 0] for _ in range(num_classes)]
    void = pixels(truth_ids, 0)
    annotated = {one: pixels(truth_ids, one.id) for one in truth}
    detected = {one: pixels(found_ids, one.id) for one in found}
    matched = set()
    for one, area in annotated.items():
        for other, other_area in detected.items():
            if one.iscrowd or one.class_index != other.class_index:
                continue
            seen = other_area - void
            if area | seen and len(area & seen) / len(area | seen) > 0.5:
                counts[one.class_index][0] += len(area & seen) / len(area | seen)
                counts[one.class_index][1] += 1
                assert one not in matched
                assert other not in matched
                matched |= {one, other}
    for other, area in detected.items():
        to_ignore = set(void)
        for one in truth:
            if one.iscrowd and one.class_index == other.class_index:
                to_ignore |= annotated[one]
        if other not in matched and len(area & to_ignore) / len(area) <= 0.5:
            counts[other.class_index][2] += 1
    for one in truth:
        if one not in matched and not one.iscrowd:
            counts[one.class_index][3] += 1
    return np.array(counts)


def random_segments(generator, shape, num_classes, crowds):
    """Rectangles drawn over each other, so that segments have holes and parts; ids far apart; some void."""
    ids = np.zeros(shape, dtype=np.int64)
    for one in generator.choice(np.arange(1, 2**24), size=generator.integers(1, 8), replace=False).tolist():
        y, x = generator.integers(0, shape[0] - 2), generator.integers(0, shape[1] - 2)
        ids[y : y + generator.integers(2, 9), x : x + generator.integers(2, 9)] = one
    ids[generator.random(shape) < 0.1] = 0
    present = [one for one in np.unique(ids).tolist() if one]
    return ids, [
        Segment(one, int(generator.integers(num_classes)), bool(crowds and generator.random() < 0.3)) for one in present
    ]


@pytest.mark.parametrize("seed", range(30))
def test_counts_are_those_of_a_slow_loop(seed):
    generator = np.random.default_rng(seed)
    shape, num_classes = (12, 14), 2
    truth_ids, truth = random_segments(generator, shape, num_classes, crowds=True)
    found_ids, found = random_segments(generator, shape, num_classes, crowds=False)
    if seed % 3:  # much that matches: the annotation with some pixels changed, and some of its classes
        changed = generator.random(shape) < 0.25
        found_ids = np.where(changed, found_ids, truth_ids)
        names = {one.id: one for one in (*truth, *found)}
        found = [Segment(one, names[one].class_index) for one in np.unique(found_ids).tolist() if one]
    expected = slow_counts(truth_ids, truth, found_ids, found, num_classes)
    np.testing.assert_allclose(compare_segments(truth_ids, truth, found_ids, found, num_classes), expected, rtol=1e-12)


def line(*runs):
    """One row of pixels: runs of (id, length)."""
    return np.array([[one for one, length in runs for _ in range(length)]])


CAT, ROAD = 0, 1


def compare(truth_ids, truth, found_ids, found):
    return compare_segments(truth_ids, truth, found_ids, found, 2).tolist()


def test_an_iou_of_one_half_is_no_match():
    truth, found = [Segment(1, CAT)], [Segment(7, CAT)]
    # 2 of 4 pixels: 0.5; 3 of 4: 0.75.
    assert compare(line((1, 4)), truth, line((7, 2), (0, 2)), found)[CAT] == [0, 0, 1, 1]
    assert compare(line((1, 4)), truth, line((7, 3), (0, 1)), found)[CAT] == [0.75, 1, 0, 0]


def test_void_is_taken_out_of_what_was_found():
    # 6 pixels found, 4 of them right, 2 on void: an IoU of 1, not of 4/6.
    counts = compare(line((1, 4), (0, 2)), [Segment(1, CAT)], line((7, 6)), [Segment(7, CAT)])
    assert counts[CAT] == [1, 1, 0, 0]


@pytest.mark.parametrize(("on_void", "wrong"), [(1, 1), (2, 1), (3, 0), (4, 0)])
def test_what_is_found_mostly_on_void_is_not_wrong(on_void, wrong):
    """Four pixels found: wrong when at most half of them are void."""
    truth_ids = line((0, on_void), (1, 4 - on_void), (1, 4))
    counts = compare(truth_ids, [Segment(1, ROAD)], line((7, 4), (0, 4)), [Segment(7, CAT)])
    assert counts == [[0, 0, wrong, 0], [0, 0, 0, 1]]


def test_crowds_are_neither_found_nor_missed_nor_wrong():
    crowd = [Segment(1, CAT, iscrowd=True)]
    assert compare(line((1, 4)), crowd, line((7, 4)), [Segment(7, CAT)]) == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert compare(line((1, 4)), crowd, line((0, 4)), []) == [[0, 0, 0, 0], [0, 0, 0, 0]]
    # A crowd of another class excuses nothing.
    assert compare(line((1, 4)), crowd, line((7, 4)), [Segment(7, ROAD)])[ROAD] == [0, 0, 1, 0]
    # Half of the segment in the crowd is not more than half; with void it may be.
    two = [Segment(1, CAT, iscrowd=True), Segment(2, ROAD)]
    assert compare(line((1, 2), (2, 2)), two, line((7, 4)), [Segment(7, CAT)])[CAT] == [0, 0, 1, 0]
    assert compare(line((1, 2), (0, 1), (2, 1)), two, line((7, 4)), [Segment(7, CAT)])[CAT] == [0, 0, 0, 0]


def test_two_crowds_of_a_class_count_together():
    truth = [Segment(1, CAT, iscrowd=True), Segment(2, CAT, iscrowd=True), Segment(3, ROAD)]
    assert compare(line((1, 2), (2, 1), (3, 1)), truth, line((7, 4)), [Segment(7, CAT)])[CAT] == [0, 0, 0, 0]


def test_nothing_found_and_nothing_annotated():
    truth = [Segment(1, CAT), Segment(2, CAT, iscrowd=True), Segment(3, ROAD), Segment(4, ROAD)]
    ids = line((1, 1), (2, 1), (3, 1), (4, 1))
    missed = [[0, 0, 0, 1], [0, 0, 0, 2]]
    assert compare(ids, truth, line((0, 4)), []) == missed
    classes, crowds = (np.array([getattr(one, name) for one in truth]) for name in ("class_index", "iscrowd"))
    assert missed_segments(classes, crowds, 2).tolist() == missed
    # Without annotation everything is void, which nothing found is wrong on.
    assert compare(line((0, 4)), [], line((7, 4)), [Segment(7, CAT)]) == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert compare(line((0, 4)), [], line((0, 4)), []) == [[0, 0, 0, 0], [0, 0, 0, 0]]


def test_an_annotated_segment_without_pixels_is_missed():
    assert compare(line((0, 4)), [Segment(9, CAT)], line((0, 4)), [])[CAT] == [0, 0, 0, 1]


def test_metrics_of_counts():
    """cat: two pairs of IoU 0.8 and 0.6, one wrong, one missed; dog: all missed; road: a perfect pair; sky: absent."""
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


def test_metrics_of_nothing_are_nan():
    metrics = panoptic_metrics(np.zeros((2, 4)), ["cat", "road"], [True, False])
    assert all(math.isnan(value) for value in metrics.values())
    only_things = panoptic_metrics(np.array([[1.0, 1, 0, 0], [0, 0, 0, 0]]), ["cat", "road"], [True, False])
    assert only_things["PQ"] == only_things["PQ_th"] == 100
    assert math.isnan(only_things["PQ_st"])


@pytest.mark.parametrize(
    ("truth_ids", "truth", "found_ids", "found", "message"),
    [
        (line((1, 4)), [Segment(1, 0)], line((7, 5)), [Segment(7, 0)], "for 1 x 5 pixels .* annotation for 1 x 4"),
        (line((1, 4)), [Segment(1, 0)], line((7, 4)), [], "the id 7, .* no found segment"),
        (line((1, 4)), [], line((0, 4)), [], "the id 1, .* no annotated segment"),
        (line((1, 4)), [Segment(1, 0)], line((9, 4)), [Segment(7, 0)], "the id 9, .* no found"),
        (line((0, 4)), [], line((0, 4)), [Segment(7, 0)], "segment 7 .*no pixel"),
        (line((0, 4)), [], line((7, 4)), [Segment(7, 0)] * 2, "found segment at position 1 has the id 7, .* another"),
        (line((0, 4)), [], line((0, 4)), [Segment(0, 0)], "found segment at position 0 has the id 0, .* void"),
    ],
)
def test_segmentations_that_contradict_themselves_are_refused(truth_ids, truth, found_ids, found, message):
    with pytest.raises(ValueError, match=message):
        compare_segments(truth_ids, truth, found_ids, found, 1)
