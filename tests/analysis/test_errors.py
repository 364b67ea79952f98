"""Every number of `detrex_lite.analysis` on cases whose answer is known by construction, and AP against pycocotools."""

import contextlib
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
    """Squares of 20 pixels that lie 100 pixels apart; classes take turns."""
    image = np.repeat(np.arange(num_images), per_image)
    place = np.tile(np.arange(per_image), num_images)
    corners = np.stack([100.0 * place, 50.0 + 0 * place], axis=1)
    classes = (np.arange(len(image)) % num_classes).astype(int)
    boxes = np.concatenate([corners, corners + SIDE], axis=1)
    return make_objects(image, boxes, classes, num_images=num_images, num_classes=num_classes)


def perfect(objects, score=0.9):
    return make_detections(objects.image, objects.boxes, objects.classes, np.full(len(objects), score))


def changed(detections, rows, **columns):
    """The detections with other values in some rows."""
    values = {name: getattr(detections, name).copy() for name in ("image", "boxes", "classes", "scores")}
    for name, value in columns.items():
        values[name][rows] = value
    return Detections(**values)


def joined(*parts):
    return make_detections(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "boxes", "classes", "scores"))
    )


def analysed(objects, detections):
    return analyse(objects, detections, NAMES[: objects.num_classes])


def counts(analysis):
    of_classes = analysis.errors.counts(analysis.detections, analysis.objects)
    return {kind: int(number.sum()) for kind, number in of_classes.items() if number.sum()}


def shifted(boxes, share):
    """Boxes moved to the right by a share of their width: IoU (1 - share) / (1 + share)."""
    return boxes + np.array([share * SIDE, 0, share * SIDE, 0])


def test_perfect_detections_have_no_errors():
    objects = grid_of_objects()
    analysis = analysed(objects, perfect(objects))
    assert counts(analysis) == {}
    assert analysis.class_precisions == pytest.approx([1, 1, 1])
    assert analysis.worst_images(5) == []
    assert (analysis.confusion == np.diag([8, 8, 8, 0])).all()
    assert all(point == (0.9, 1, 1, 1) for point in analysis.points)
    assert analysis.calibration.error == pytest.approx(0.1)  # always right, with a score of 0.9


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("localisation", lambda found, rows: changed(found, rows, boxes=shifted(found.boxes[rows], 0.5))),
        ("classification", lambda found, rows: changed(found, rows, classes=(found.classes[rows] + 1) % 3)),
        (
            "both",
            lambda found, rows: changed(
                found, rows, classes=(found.classes[rows] + 1) % 3, boxes=shifted(found.boxes[rows], 0.5)
            ),
        ),
        ("duplicate", lambda found, rows: joined(found, changed(found, slice(None), scores=0.95)[rows])),
        (
            "background",
            lambda found, rows: joined(found, changed(found[rows], slice(None), boxes=[0, 200, 20, 220], scores=0.95)),
        ),
        ("missed", lambda found, rows: found[np.setdiff1d(np.arange(len(found)), rows)]),
    ],
)
def test_each_kind_of_error_is_recognised_and_fixing_it_gives_everything_back(kind, change):
    objects = grid_of_objects()
    rows = np.array([0, 5, 13])
    analysis = analysed(objects, change(perfect(objects), rows))
    expected = {kind: 3}
    if kind == "both":  # such a detection is about no object, so its object is missed
        expected["missed"] = 3
    assert counts(analysis) == expected
    assert analysis.precisions[0].mean() < 1
    if kind != "both":
        assert analysis.precisions[0].mean() + analysis.gain(kind) == pytest.approx(1)
    for other in set(KINDS) - set(expected):
        assert analysis.gain(other) == pytest.approx(0), other


def test_errors_of_an_image_are_counted_there():
    objects = grid_of_objects()
    detections = changed(perfect(objects), [7], boxes=[400, 300, 420, 320])
    analysis = analysed(objects, detections)
    of_images = analysis.errors.counts_of_images(analysis.detections, objects)
    assert of_images["background"].tolist() == of_images["missed"].tolist() == [0, 1, 0, 0]
    assert analysis.worst_images(3) == [1]


def test_only_the_best_of_several_errors_about_one_object_is_fixed():
    objects = grid_of_objects(1, 1, 1)
    boxes = shifted(objects.boxes, 0.5)
    twice = make_detections([0, 0], [*boxes, *boxes], [0, 0], [0.8, 0.6])
    analysis = analysed(objects, twice)
    assert counts(analysis) == {"localisation": 2}
    assert analysis.precisions[0] == 0
    assert analysis.gain("localisation") == pytest.approx(1)  # one becomes right, the other goes


def test_an_error_about_a_detected_object_is_left_out_when_it_is_fixed():
    objects = grid_of_objects(1, 2, 1)
    detections = joined(perfect(objects, 0.5), make_detections([0], shifted(objects.boxes[:1], 0.5), [0], [0.9]))
    pairs = overlapping_pairs(objects, detections)
    errors = find_errors(objects, detections, pairs, match(objects, detections, pairs))
    assert [KINDS[kind] for kind in errors.kind if kind >= 0] == ["localisation"]
    assert errors.missed.sum() == 0
    assert analysed(objects, detections).gain("localisation") == pytest.approx(1 - 2 / 3)


def test_detections_in_crowds_are_neither_right_nor_wrong():
    objects = make_objects(
        [0, 0], [[0, 0, 20, 20], [100, 0, 300, 200]], [0, 0], num_images=1, num_classes=1, iscrowd=[False, True]
    )
    boxes = [[0, 0, 20, 20], [120, 20, 140, 40], [160, 20, 180, 40]]
    analysis = analysed(objects, make_detections([0, 0, 0], boxes, [0, 0, 0], [0.5, 0.9, 0.8]))
    assert analysis.matching.ignored.tolist() == [True, True, False]  # sorted by score
    assert counts(analysis) == {}
    assert analysis.class_precisions == pytest.approx([1])
    assert analysis.confusion.tolist() == [[1, 0], [0, 0]]


def test_a_class_that_is_never_detected():
    objects = grid_of_objects()
    detections = perfect(objects)[objects.classes != 1]
    analysis = analysed(objects, detections)
    assert math.isnan(analysis.points[1].threshold)
    assert analysis.fixed["missed"][1] == 1
    assert analysis.gain("missed") == pytest.approx(1 / 3)
    assert explain(analysis)[0].startswith("The worst class is dog")
    assert "8 of its 8 objects are missed;" in explain(analysis)[0]  # no threshold is best where nothing is right


def test_the_sentence_names_the_class_that_objects_are_taken_for():
    objects = grid_of_objects()
    detections = changed(perfect(objects), np.flatnonzero(objects.classes == 2)[:6], classes=0)
    [worst, *_] = explain(analysed(objects, detections))
    assert worst.startswith("The worst class is cow")
    assert "6 of its 8 objects are taken for cat" in worst


def test_boxes_that_are_not_tight_are_called_so():
    objects = grid_of_objects()
    detections = changed(perfect(objects), slice(None), boxes=shifted(objects.boxes, 0.25))  # IoU 0.6
    assert "the boxes are not tight; AP75 is 0.0" in explain(analysed(objects, detections))[0]


def test_no_objects_at_all():
    objects = make_objects([], [], [], num_images=2, num_classes=3)
    analysis = analysed(objects, make_detections([1], [[0, 0, 10, 10]], [2], [0.5]))
    assert explain(analysis) == ["There is no object to detect."]
    assert json.loads(json.dumps(to_json(analysis), allow_nan=False))["AP"] is None
    assert analysed(objects, make_detections([], [], [], [])).worst_class() is None


def test_the_confusion_matrix_has_every_object_and_every_wrong_box_once():
    objects = grid_of_objects()
    detections = perfect(objects)
    detections = changed(detections, [0], classes=1)  # a cat that is taken for a dog
    detections = changed(detections, [1], scores=0.1)  # a dog below its threshold
    detections = joined(detections, make_detections([0], [[0, 300, 20, 320]], [2], [0.9]))  # a cow of nothing
    analysis = analysed(objects, detections)
    thresholds = np.array([0.5, 0.5, 0.5])
    pairs = overlapping_pairs(objects, analysis.detections)
    matrix = analysis.confusion
    assert matrix[:3].sum() == len(objects)
    assert (matrix[0, 1], matrix[3, 2]) == (1, 1)
    at_half = confusion_matrix(objects, analysis.detections, pairs, analysis.matching, thresholds=thresholds)
    assert at_half.tolist() == [[7, 1, 0, 0], [0, 7, 0, 1], [0, 0, 8, 0], [0, 0, 1, 0]]


def test_the_best_threshold_lies_between_right_and_wrong():
    objects = grid_of_objects(1, 4, 1)
    right = make_detections([0] * 3, objects.boxes[:3], [0] * 3, [0.9, 0.8, 0.7])
    wrong = make_detections([0] * 2, [[0, 300, 20, 320], [50, 300, 70, 320]], [0] * 2, [0.7, 0.2])
    analysis = analysed(objects, joined(right, wrong))
    # At 0.8: precision 1, recall 2/4. At 0.7, which both a right and a wrong one have: 3/4 and 3/4.
    assert analysis.points[0] == pytest.approx((0.7, 0.75, 0.75, 0.75))
    assert analysis.curves[0].scores.tolist() == [0.9, 0.8, 0.7, 0.2]
    assert analysis.joint == analysis.points[0]


def test_costs_add_up_to_what_is_lost():
    objects, detections = random_case()
    detections = detections.at_most()
    matching = match(objects, detections, overlapping_pairs(objects, detections))
    precisions = []
    for number in range(objects.num_classes):
        rows = np.flatnonzero((detections.classes == number) & ~matching.ignored)
        right = matching.right[rows[np.argsort(-detections.scores[rows], kind="stable")]]
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        precisions.append(precision[right].sum() / objects.per_class()[number])
    costs = find_costs(objects, detections, matching)
    assert costs.detection.sum() + costs.object.sum() == pytest.approx(1 - np.mean(precisions))
    assert costs.of_images(detections, objects).sum() == pytest.approx(1 - np.mean(precisions))
    assert (costs.detection[matching.right] == 0).all()


def test_calibration_compares_scores_with_precision():
    objects = grid_of_objects(1, 6, 1)
    right = make_detections([0] * 6, objects.boxes, [0] * 6, [0.85] * 6)
    wrong = make_detections([0] * 2, [[0, 300, 20, 320], [50, 300, 70, 320]], [0] * 2, [0.85, 0.85])
    unlikely = make_detections([0] * 50, [[0, 400, 9, 409]] * 50, [0] * 50, [0.01] * 50)
    detections = joined(right, wrong, unlikely)
    matching = match(objects, detections, overlapping_pairs(objects, detections))
    result = calibrate(detections, matching)
    assert result.error == pytest.approx(0.85 - 6 / 8)
    assert result.counts.tolist() == [0] * 8 + [8, 0]
    assert math.isnan(calibrate(detections, matching, min_score=0.9).error)


def test_sizes_and_crowding():
    boxes = [[0, 0, 10, 10], [100, 0, 150, 50], [200, 0, 400, 200], [0, 0, 200, 200]]
    objects = make_objects([0, 0, 0, 1], boxes, [0, 0, 0, 0], num_images=2, num_classes=1)
    detections = perfect(objects)[[0, 2, 3]]
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
    """Whole pixels, so that ties are exact; crowds; many detections of one class; equal scores."""
    rng = np.random.default_rng(seed)
    number = 8 * num_images
    low = rng.integers(0, 300, (number, 2))
    boxes = np.concatenate([low, low + np.exp(rng.normal(3.5, 1, (number, 2))).astype(int) + 2], axis=1).astype(float)
    image, classes = rng.integers(0, num_images, number), rng.integers(0, num_classes, number)
    objects = make_objects(
        image, boxes, classes, num_images=num_images, num_classes=num_classes, iscrowd=rng.random(number) < 0.05
    )
    near = rng.integers(0, number, 5 * number)
    moved = boxes[near] + rng.integers(-8, 9, (len(near), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    of_class = np.where(rng.random(len(near)) < 0.8, classes[near], rng.integers(0, num_classes, len(near)))
    crowded = make_detections([0] * 150, moved[:150], [0] * 150, rng.random(150).round(2))
    return objects, joined(make_detections(image[near], moved, of_class, rng.random(len(near)).round(2)), crowded)


def coco_evaluation(objects, detections):
    def annotation(number, image, box, class_index, **more):
        x0, y0, x1, y1 = box.tolist()
        where = {"image_id": int(image) + 1, "category_id": int(class_index) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        return {"id": number + 1, **where, "area": (x1 - x0) * (y1 - y0), **more}

    content = {
        "images": [{"id": number + 1, "height": 500, "width": 500} for number in range(objects.num_images)],
        "categories": [{"id": number + 1, "name": str(number)} for number in range(objects.num_classes)],
    }
    rows = zip(objects.image, objects.boxes, objects.classes, objects.iscrowd, strict=True)
    truth = [annotation(n, i, box, k, iscrowd=int(crowd)) for n, (i, box, k, crowd) in enumerate(rows)]
    rows = zip(detections.image, detections.boxes, detections.classes, detections.scores, strict=True)
    results = [annotation(n, i, box, k, score=float(s), iscrowd=0) for n, (i, box, k, s) in enumerate(rows)]
    parts = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in (truth, results):
            part = COCO()
            part.dataset = {**content, "annotations": annotations}
            part.createIndex()
            parts.append(part)
        evaluation = COCOeval(*parts, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_average_precision_is_that_of_pycocotools():
    objects, detections = random_case()
    evaluation = coco_evaluation(objects, detections)
    detections = detections[np.argsort(detections.image, kind="stable")].at_most()  # among equal scores, as there
    pairs = overlapping_pairs(objects, detections)
    ours = class_average_precisions(objects, detections, pairs)
    theirs = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=1)
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert ours.mean() == pytest.approx(evaluation.stats[0], abs=1e-12)
    by_size = precision_by_size(objects, detections, pairs)
    assert [value for _, value in by_size.values()] == pytest.approx(evaluation.stats[3:6].tolist(), abs=1e-12)
    assert ours.mean() == pytest.approx(analysed(objects, detections).class_precisions.mean())


def test_the_order_of_detections_of_different_scores_is_of_no_account():
    objects, detections = random_case()
    detections = changed(detections, slice(None), scores=np.random.default_rng(1).permutation(len(detections)) / 1e4)
    shuffled = detections[np.random.default_rng(2).permutation(len(detections))]
    first, second = (to_json(analysed(objects, one)) for one in (detections, shuffled))
    assert first == second


def test_records_of_a_data_set():
    dataset = MemoryDataset({42: [([0, 0, 10, 20], 1), ([0, 0, 5, 5], 0, True, 9)], 7: [], 11: [([1, 1, 2, 2], 0)]})
    objects = objects_of(dataset)
    assert objects.image.tolist() == [0, 0, 2]
    assert objects.classes.tolist() == [1, 0, 0]
    assert objects.areas.tolist() == [200, 9, 1]
    assert objects.per_class().tolist() == [1, 1]
    assert len(objects_of(MemoryDataset({1: []}))) == 0


def test_json_has_every_class_with_its_threshold_and_errors(tmp_path):
    objects, detections = random_case()
    content = to_json(analysed(objects, detections))
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
        (lambda: make_detections([0, 0], [[0, 0, 1, 1]], [0, 0], [0.5, 0.5]), "one length"),
        (lambda: analyse(grid_of_objects(), make_detections([9], [[0, 0, 1, 1]], [0], [1]), NAMES), "outside 0..3"),
        (lambda: analyse(grid_of_objects(), make_detections([0], [[0, 0, 1, 1]], [3], [1]), NAMES), "outside 0..2"),
        (lambda: analyse(grid_of_objects(), make_detections([], [], [], []), NAMES[:2]), "2 names for 3 classes"),
    ],
)
def test_wrong_tables_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
