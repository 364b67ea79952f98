"""Every number of `detrex_lite.analysis` on cases whose answer is known by construction, and AP against pycocotools."""

import contextlib
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detrex_lite.analysis import (
    KINDS,
    Detections,
    analyse,
    calibrate,
    class_average_precisions,
    confusion_matrix,
    explain,
    find_costs,
    find_errors,
    make_detections,
    make_objects,
    match,
    overlapping_pairs,
    precision_by_crowding,
    precision_by_size,
    to_json,
    write_errors,
)
from detrex_lite.analysis.tables import objects_of

from ..evaluation.datasets import MemoryDataset

NAMES = ("cat", "dog", "cow")
SIDE = 20.0


def grid_of_objects(num_images=4, per_image=6, num_classes=3):
    """Objects in a row: squares of 20 pixels, 100 pixels apart, whose classes alternate."""
    image = np.repeat(np.arange(num_images), per_image)
    column = np.tile(np.arange(per_image), num_images)
    corners = np.stack([100.0 * column, 50.0 + 0 * column], axis=1)
    classes = (np.arange(len(image)) % num_classes).astype(int)
    boxes = np.concatenate([corners, corners + SIDE], axis=1)
    return make_objects(image, boxes, classes, num_images=num_images, num_classes=num_classes)


def perfect_detections(objects, score=0.9):
    return make_detections(objects.image, objects.boxes, objects.classes, np.full(len(objects), score))


def replaced(detections, rows, **columns):
    """A copy of the detections with new values of the given columns in the given rows."""
    values = {name: getattr(detections, name).copy() for name in ("image", "boxes", "classes", "scores")}
    for name, value in columns.items():
        values[name][rows] = value
    return Detections(**values)


def concatenated(*parts):
    return make_detections(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "boxes", "classes", "scores"))
    )


def analyse_named(objects, detections):
    return analyse(objects, detections, NAMES[: objects.num_classes])


def counts(analysis):
    of_classes = analysis.errors.counts(analysis.detections, analysis.objects)
    return {kind: int(number.sum()) for kind, number in of_classes.items() if number.sum()}


def shift_boxes(boxes, fraction):
    """Move boxes to the right by a fraction of their width: the IoU becomes (1 - fraction) / (1 + fraction)."""
    return boxes + np.array([fraction * SIDE, 0, fraction * SIDE, 0])


def test_perfect_detections_have_no_errors():
    objects = grid_of_objects()
    analysis = analyse_named(objects, perfect_detections(objects))
    assert counts(analysis) == {}
    assert analysis.class_precisions == pytest.approx([1, 1, 1])
    assert analysis.worst_images(5) == []
    assert (analysis.confusion == np.diag([8, 8, 8, 0])).all()
    assert all(point == (0.9, 1, 1, 1) for point in analysis.points)
    assert analysis.calibration.error == pytest.approx(0.1)  # always right, with a score of 0.9


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (
            "localisation",
            lambda detections, rows: replaced(detections, rows, boxes=shift_boxes(detections.boxes[rows], 0.5)),
        ),
        (
            "classification",
            lambda detections, rows: replaced(detections, rows, classes=(detections.classes[rows] + 1) % 3),
        ),
        (
            "both",
            lambda detections, rows: replaced(
                detections,
                rows,
                classes=(detections.classes[rows] + 1) % 3,
                boxes=shift_boxes(detections.boxes[rows], 0.5),
            ),
        ),
        (
            "duplicate",
            lambda detections, rows: concatenated(detections, replaced(detections, slice(None), scores=0.95)[rows]),
        ),
        (
            "background",
            lambda detections, rows: concatenated(
                detections, replaced(detections[rows], slice(None), boxes=[0, 200, 20, 220], scores=0.95)
            ),
        ),
        ("missed", lambda detections, rows: detections[np.setdiff1d(np.arange(len(detections)), rows)]),
    ],
)
def test_each_kind_of_error_is_recognised_and_fixing_it_restores_full_precision(kind, change):
    objects = grid_of_objects()
    rows = np.array([0, 5, 13])
    analysis = analyse_named(objects, change(perfect_detections(objects), rows))
    expected = {kind: 3}
    if kind == "both":  # such a detection is assigned to no object, so the object is missed
        expected["missed"] = 3
    assert counts(analysis) == expected
    assert analysis.precisions[0].mean() < 1
    if kind != "both":
        assert analysis.precisions[0].mean() + analysis.gain(kind) == pytest.approx(1)
    for other_kind in set(KINDS) - set(expected):
        assert analysis.gain(other_kind) == pytest.approx(0), other_kind


def test_errors_are_counted_per_image():
    objects = grid_of_objects()
    detections = replaced(perfect_detections(objects), [7], boxes=[400, 300, 420, 320])
    analysis = analyse_named(objects, detections)
    of_images = analysis.errors.counts_of_images(analysis.detections, objects)
    assert of_images["background"].tolist() == of_images["missed"].tolist() == [0, 1, 0, 0]
    assert analysis.worst_images(3) == [1]


def test_only_the_best_of_several_errors_of_an_object_is_fixed():
    objects = grid_of_objects(1, 1, 1)
    boxes = shift_boxes(objects.boxes, 0.5)
    duplicated = make_detections([0, 0], [*boxes, *boxes], [0, 0], [0.8, 0.6])
    analysis = analyse_named(objects, duplicated)
    assert counts(analysis) == {"localisation": 2}
    assert analysis.precisions[0] == 0
    # Fixing corrects the better detection and removes the other one.
    assert analysis.gain("localisation") == pytest.approx(1)


def test_fixing_an_error_of_a_detected_object_removes_the_detection():
    objects = grid_of_objects(1, 2, 1)
    detections = concatenated(
        perfect_detections(objects, 0.5), make_detections([0], shift_boxes(objects.boxes[:1], 0.5), [0], [0.9])
    )
    pairs = overlapping_pairs(objects, detections)
    errors = find_errors(objects, detections, pairs, match(objects, detections, pairs))
    assert [KINDS[kind] for kind in errors.kind if kind >= 0] == ["localisation"]
    assert errors.missed.sum() == 0
    assert analyse_named(objects, detections).gain("localisation") == pytest.approx(1 - 2 / 3)


def test_detections_in_crowds_are_ignored():
    objects = make_objects(
        [0, 0], [[0, 0, 20, 20], [100, 0, 300, 200]], [0, 0], num_images=1, num_classes=1, iscrowd=[False, True]
    )
    boxes = [[0, 0, 20, 20], [120, 20, 140, 40], [160, 20, 180, 40]]
    analysis = analyse_named(objects, make_detections([0, 0, 0], boxes, [0, 0, 0], [0.5, 0.9, 0.8]))
    assert analysis.matching.ignored.tolist() == [True, True, False]  # sorted by score
    assert counts(analysis) == {}
    assert analysis.class_precisions == pytest.approx([1])
    assert analysis.confusion.tolist() == [[1, 0], [0, 0]]


def test_objects_of_a_class_that_is_never_detected_are_missed():
    objects = grid_of_objects()
    detections = perfect_detections(objects)[objects.classes != 1]
    analysis = analyse_named(objects, detections)
    assert math.isnan(analysis.points[1].threshold)
    assert analysis.fixed["missed"][1] == 1
    assert analysis.gain("missed") == pytest.approx(1 / 3)
    assert explain(analysis)[0].startswith("The worst class is dog")
    # No threshold follows, because no detection is correct.
    assert "8 of its 8 objects are missed;" in explain(analysis)[0]


def test_explanation_names_the_class_with_which_objects_are_confused():
    objects = grid_of_objects()
    detections = replaced(perfect_detections(objects), np.flatnonzero(objects.classes == 2)[:6], classes=0)
    [worst, *_] = explain(analyse_named(objects, detections))
    assert worst.startswith("The worst class is cow")
    assert "6 of its 8 objects are taken for cat" in worst


def test_explanation_names_rare_and_small_objects():
    objects = grid_of_objects()
    rare = dataclasses.replace(objects, classes=np.where(np.arange(len(objects)) == 2, 2, objects.classes % 2))
    detections = perfect_detections(rare)[rare.classes != 2]
    scales = np.array([0.5, 2.0, np.nan, 1.0])
    analysis = analyse(rare, detections, NAMES, input_scales=scales)
    assert analysis.median_sides.tolist() == [20.0, 20.0, 10.0]
    sentence = explain(analysis)[1]
    assert "1 of the 24 " in sentence
    assert "below 10 pixels" in sentence
    assert to_json(analysis)["classes"]["cow"]["median_side"] == 10.0
    assert np.isnan(analyse_named(rare, detections).median_sides).all()


def test_explanation_of_a_class_that_has_not_been_learnt():
    objects = grid_of_objects()
    is_dog = objects.classes == 1
    detections = perfect_detections(objects)
    detections = replaced(detections, is_dog, scores=0.1, boxes=shift_boxes(objects.boxes, 0.7)[is_dog])
    # No kind of error explains this class alone: good boxes would still come after the boxes on the background.
    background = np.tile([[0.0, 300.0, 20.0, 320.0]], (200, 1))
    dogs = make_detections(np.repeat(np.arange(4), 50), background, np.ones(200), np.full(200, 0.9))
    [worst, *_] = explain(analyse_named(objects, concatenated(detections, dogs)))
    assert "dog" in worst
    assert "hardly any detection of it is right" in worst


def test_explanation_reports_inaccurate_boxes():
    objects = grid_of_objects()
    detections = replaced(perfect_detections(objects), slice(None), boxes=shift_boxes(objects.boxes, 0.25))  # IoU 0.6
    assert "the boxes are not tight; AP75 is 0.0" in explain(analyse_named(objects, detections))[0]


def test_analysis_without_objects_has_no_precision():
    objects = make_objects([], [], [], num_images=2, num_classes=3)
    analysis = analyse_named(objects, make_detections([1], [[0, 0, 10, 10]], [2], [0.5]))
    assert explain(analysis) == ["There is no object to detect."]
    assert json.loads(json.dumps(to_json(analysis), allow_nan=False))["AP"] is None
    assert analyse_named(objects, make_detections([], [], [], [])).worst_class() is None


def test_the_confusion_matrix_has_every_object_and_every_wrong_box_once():
    objects = grid_of_objects()
    detections = perfect_detections(objects)
    detections = replaced(detections, [0], classes=1)  # a cat that is taken for a dog
    detections = replaced(detections, [1], scores=0.1)  # a dog below its threshold
    # The third error is a cow in the background.
    detections = concatenated(detections, make_detections([0], [[0, 300, 20, 320]], [2], [0.9]))
    analysis = analyse_named(objects, detections)
    thresholds = np.array([0.5, 0.5, 0.5])
    pairs = overlapping_pairs(objects, analysis.detections)
    matrix = analysis.confusion
    assert matrix[:3].sum() == len(objects)
    assert (matrix[0, 1], matrix[3, 2]) == (1, 1)
    at_half = confusion_matrix(objects, analysis.detections, pairs, analysis.matching, thresholds=thresholds)
    assert at_half.tolist() == [[7, 1, 0, 0], [0, 7, 0, 1], [0, 0, 8, 0], [0, 0, 1, 0]]


def test_best_threshold_separates_correct_from_wrong_detections():
    objects = grid_of_objects(1, 4, 1)
    correct = make_detections([0] * 3, objects.boxes[:3], [0] * 3, [0.9, 0.8, 0.7])
    false_positives = make_detections([0] * 2, [[0, 300, 20, 320], [50, 300, 70, 320]], [0] * 2, [0.7, 0.2])
    analysis = analyse_named(objects, concatenated(correct, false_positives))
    # At 0.8: precision 1, recall 2/4. At 0.7, the score of a correct and a wrong detection: 3/4 and 3/4.
    assert analysis.points[0] == pytest.approx((0.7, 0.75, 0.75, 0.75))
    assert analysis.curves[0].scores.tolist() == [0.9, 0.8, 0.7, 0.2]
    assert analysis.joint == analysis.points[0]


def test_costs_add_up_to_the_lost_precision():
    objects, detections = random_case()
    detections = detections.at_most()
    matching = match(objects, detections, overlapping_pairs(objects, detections))
    precisions = []
    for class_index in range(objects.num_classes):
        rows = np.flatnonzero((detections.classes == class_index) & ~matching.ignored)
        is_correct = matching.right[rows[np.argsort(-detections.scores[rows], kind="stable")]]
        precision = np.cumsum(is_correct) / np.arange(1, len(is_correct) + 1)
        precisions.append(precision[is_correct].sum() / objects.per_class()[class_index])
    costs = find_costs(objects, detections, matching)
    assert costs.detection.sum() + costs.object.sum() == pytest.approx(1 - np.mean(precisions))
    assert costs.of_images(detections, objects).sum() == pytest.approx(1 - np.mean(precisions))
    assert (costs.detection[matching.right] == 0).all()


def test_calibration_compares_scores_with_precision():
    objects = grid_of_objects(1, 6, 1)
    correct = make_detections([0] * 6, objects.boxes, [0] * 6, [0.85] * 6)
    false_positives = make_detections([0] * 2, [[0, 300, 20, 320], [50, 300, 70, 320]], [0] * 2, [0.85, 0.85])
    unlikely = make_detections([0] * 50, [[0, 400, 9, 409]] * 50, [0] * 50, [0.01] * 50)
    detections = concatenated(correct, false_positives, unlikely)
    matching = match(objects, detections, overlapping_pairs(objects, detections))
    result = calibrate(detections, matching)
    assert result.error == pytest.approx(0.85 - 6 / 8)
    assert result.counts.tolist() == [0] * 8 + [8, 0]
    assert math.isnan(calibrate(detections, matching, min_score=0.9).error)


def test_precision_is_given_by_object_size_and_by_crowding():
    boxes = [[0, 0, 10, 10], [100, 0, 150, 50], [200, 0, 400, 200], [0, 0, 200, 200]]
    objects = make_objects([0, 0, 0, 1], boxes, [0, 0, 0, 0], num_images=2, num_classes=1)
    detections = perfect_detections(objects)[[0, 2, 3]]
    pairs = overlapping_pairs(objects, detections)
    assert precision_by_size(objects, detections, pairs) == {
        "small": (1, pytest.approx(1)),
        "medium": (1, 0.0),
        "large": (2, pytest.approx(1)),
    }
    crowding = precision_by_crowding(objects, detections, pairs)
    assert crowding["1 object"] == (1, pytest.approx(1))
    assert crowding["2 to 4"][0] == 1
    assert crowding["2 to 4"][1] == pytest.approx(67 / 101)  # two of three objects: 67 of 101 recalls
    assert math.isnan(crowding["5 to 9"][1])


def random_case(seed=0, num_images=40, num_classes=3):
    """Random objects and detections with crowds, equal scores and more than 100 detections of one class.

    Coordinates are whole pixels, so that ties are exact.
    """
    rng = np.random.default_rng(seed)
    number = 8 * num_images
    low = rng.integers(0, 300, (number, 2))
    boxes = np.concatenate([low, low + np.exp(rng.normal(3.5, 1, (number, 2))).astype(int) + 2], axis=1).astype(float)
    image, classes = rng.integers(0, num_images, number), rng.integers(0, num_classes, number)
    objects = make_objects(
        image, boxes, classes, num_images=num_images, num_classes=num_classes, iscrowd=rng.random(number) < 0.05
    )
    source = rng.integers(0, number, 5 * number)
    noisy_boxes = boxes[source] + rng.integers(-8, 9, (len(source), 4))
    noisy_boxes[:, 2:] = np.maximum(noisy_boxes[:, 2:], noisy_boxes[:, :2] + 1)
    detected_classes = np.where(
        rng.random(len(source)) < 0.8, classes[source], rng.integers(0, num_classes, len(source))
    )
    crowded = make_detections([0] * 150, noisy_boxes[:150], [0] * 150, rng.random(150).round(2))
    return objects, concatenated(
        make_detections(image[source], noisy_boxes, detected_classes, rng.random(len(source)).round(2)), crowded
    )


def coco_evaluation(objects, detections):
    def annotation(number, image, box, class_index, **extra_fields):
        x0, y0, x1, y1 = box.tolist()
        location = {"image_id": int(image) + 1, "category_id": int(class_index) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        return {"id": number + 1, **location, "area": (x1 - x0) * (y1 - y0), **extra_fields}

    content = {
        "images": [{"id": number + 1, "height": 500, "width": 500} for number in range(objects.num_images)],
        "categories": [{"id": number + 1, "name": str(number)} for number in range(objects.num_classes)],
    }
    rows = zip(objects.image, objects.boxes, objects.classes, objects.iscrowd, strict=True)
    truth = [annotation(n, i, box, k, iscrowd=int(crowd)) for n, (i, box, k, crowd) in enumerate(rows)]
    rows = zip(detections.image, detections.boxes, detections.classes, detections.scores, strict=True)
    results = [annotation(n, i, box, k, score=float(s), iscrowd=0) for n, (i, box, k, s) in enumerate(rows)]
    cocos = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in (truth, results):
            coco = COCO()
            coco.dataset = {**content, "annotations": annotations}
            coco.createIndex()
            cocos.append(coco)
        evaluation = COCOeval(*cocos, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_average_precision_agrees_with_pycocotools():
    objects, detections = random_case()
    evaluation = coco_evaluation(objects, detections)
    detections = detections[np.argsort(detections.image, kind="stable")].at_most()  # among equal scores, as there
    pairs = overlapping_pairs(objects, detections)
    actual = class_average_precisions(objects, detections, pairs)
    expected = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=1)
    assert actual == pytest.approx(expected, abs=1e-12)
    assert actual.mean() == pytest.approx(evaluation.stats[0], abs=1e-12)
    by_size = precision_by_size(objects, detections, pairs)
    assert [value for _, value in by_size.values()] == pytest.approx(evaluation.stats[3:6].tolist(), abs=1e-12)
    assert actual.mean() == pytest.approx(analyse_named(objects, detections).class_precisions.mean())


def test_order_of_detections_with_different_scores_does_not_matter():
    objects, detections = random_case()
    detections = replaced(detections, slice(None), scores=np.random.default_rng(1).permutation(len(detections)) / 1e4)
    shuffled = detections[np.random.default_rng(2).permutation(len(detections))]
    content, shuffled_content = (to_json(analyse_named(objects, variant)) for variant in (detections, shuffled))
    assert content == shuffled_content


def test_objects_of_keeps_images_classes_and_areas_of_a_data_set():
    dataset = MemoryDataset({42: [([0, 0, 10, 20], 1), ([0, 0, 5, 5], 0, True, 9)], 7: [], 11: [([1, 1, 2, 2], 0)]})
    objects = objects_of(dataset)
    assert objects.image.tolist() == [0, 0, 2]
    assert objects.classes.tolist() == [1, 0, 0]
    assert objects.areas.tolist() == [200, 9, 1]
    assert objects.per_class().tolist() == [1, 1]
    assert len(objects_of(MemoryDataset({1: []}))) == 0


def test_json_has_every_class_with_its_threshold_and_errors(tmp_path):
    objects, detections = random_case()
    content = to_json(analyse_named(objects, detections))
    write_errors(tmp_path / "errors.json", {"boxes": content})
    read = json.loads((tmp_path / "errors.json").read_text())["boxes"]
    assert set(read["classes"]) == set(NAMES)
    assert set(read["kinds"]) == set(KINDS)
    assert read["classes"]["cat"]["objects"] == objects.per_class()[0]
    assert sum(row[2] for row in read["confusion"] if row[0] is not None) == objects.per_class().sum()
    assert len(read["curves"]["mean"]) == len(read["curves"]["recall"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_objects([0], [[0, 0, 1, 1]], [3], num_images=1, num_classes=3), "classes=3"),
        (lambda: make_objects([1], [[0, 0, 1, 1]], [0], num_images=1, num_classes=3), "image=1"),
        (lambda: make_detections([0, 0], [[0, 0, 1, 1]], [0, 0], [0.5, 0.5]), "length"),
        (lambda: analyse(grid_of_objects(), make_detections([9], [[0, 0, 1, 1]], [0], [1]), NAMES), "outside 0..3"),
        (lambda: analyse(grid_of_objects(), make_detections([0], [[0, 0, 1, 1]], [3], [1]), NAMES), "outside 0..2"),
        (lambda: analyse(grid_of_objects(), make_detections([], [], [], []), NAMES[:2]), "2 names for 3 classes"),
    ],
)
def test_invalid_tables_raise_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
