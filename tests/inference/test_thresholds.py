import numpy as np
import pytest

from detrex_lite.inference.thresholds import class_thresholds, describe_thresholds, threshold_below

NAMES = ("cat", "dog", "tea=pot")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.25, [0.25] * 3),
        ({"dog": 0.1}, [0.5, 0.1, 0.5]),
        ({}, [0.5] * 3),
        ([0, 1, 0.5], [0, 1, 0.5]),
        (np.array([0.1, 0.2, 0.3]), [0.1, 0.2, 0.3]),
    ],
)
def test_thresholds_are_expanded_to_one_value_per_class(value, expected):
    assert class_thresholds(value, NAMES).tolist() == expected


def test_classes_missing_from_the_dict_keep_the_default():
    assert class_thresholds({"dog": 0.9}, NAMES, default=np.array([0.1, 0.2, 0.3])).tolist() == [0.1, 0.9, 0.3]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"dgo": 0.1}, "'dgo'.*did you mean 'dog'"),
        ({"zebra": 0.1}, "'zebra'.*cat, dog"),
        ({"dog": 1.1}, "'dog'.*1.1"),
        ([0.1, 0.2], "2 values.*3 classes"),
        ([0.1, 0.2, True], "class 2"),
        ("0.5", "0..1, got '0.5'"),
        (None, "None"),
    ],
)
def test_invalid_thresholds_raise_an_error(value, message):
    with pytest.raises(ValueError, match=message):
        class_thresholds(value, NAMES)


@pytest.mark.parametrize(
    ("score", "expected"), [(0.23, 0.2), (0.3, 0.3), (0.999, 0.9), (0.0123, 0.01), (1.0, 1.0), (0, 0)]
)
def test_suggested_threshold_is_at_most_the_score(score, expected):
    assert threshold_below(score) == expected
    assert threshold_below(float(np.float32(score))) <= float(np.float32(score))


def test_description_gives_the_threshold_or_its_range():
    assert describe_thresholds(np.full(3, 0.5)) == "score_threshold=0.5"
    assert "0.1 to 0.9" in describe_thresholds(np.array([0.1, 0.9]))
