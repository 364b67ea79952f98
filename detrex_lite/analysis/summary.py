"""The complete analysis of the detections of a data set."""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.files import replace_text
from .confusion import Calibration, calibrate, confusion_matrix
from .errors import (
    BACKGROUND,
    BACKGROUND_IOU,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    FOREGROUND_IOU,
    KINDS,
    LOCALISATION,
    MISSED,
    Errors,
    find_costs,
    find_errors,
    precision_if_fixed,
)
from .matching import Matching, match, overlapping_pairs
from .precision import (
    IOU_THRESHOLDS,
    Curve,
    OperatingPoint,
    best_point,
    class_average_precisions,
    class_curves,
    interpolated_precision,
    joint_curve,
    precision_by_crowding,
    precision_by_size,
    rank_by_class,
)
from .tables import Detections, Objects

logger = logging.getLogger(__name__)

ERRORS_FILE = "errors.json"

BOXES, MASKS = SHAPES = ("boxes", "masks")
"""What an analysis can compare."""

_RECALLS = np.linspace(0, 1, 51)
_MOST_CURVES = 100
_FEW_OBJECTS = 20
_SMALL_SIDE = 32  # pixels of the model's input; the finest feature maps have cells of 8 or 16 pixels
_LOST = 10  # points of AP50 below which a class has not been learnt
_DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Analysis:
    """The result of `analyse`. AP, precision, recall and costs are in 0..1, and nan without objects.

    Attributes:
        class_names: K names.
        objects: the annotated objects of N images.
        detections: the analysed detections, the best 100 of each class in each image, by class and score.
        matching: the matching at an IoU of 0.5.
        errors: the errors at `thresholds`.
        thresholds: (K,) the threshold of each class with the highest F1; for a class without any correct detection,
            that of all classes together.
        precisions: (10, K) AP at COCO's IoU thresholds.
        fixed: kind of error -> (K,) AP50 if that kind did not exist, at all scores.
        curves: K curves of precision and recall at an IoU of 0.5.
        points: for each class, the point of its curve with the highest F1.
        joint: the point with the highest F1 for a single threshold for all classes.
        confusion: (K + 1, K + 1), see `confusion_matrix`, at `thresholds`.
        sizes: name of a size -> number of objects, AP.
        crowding: number of objects in an image -> number of images, AP on them.
        calibration: see `calibrate`.
        costs: (N,) the contribution of each image to 1 - mAP50; see `Costs`.
        median_sides: (K,) the median side of a class's objects, the root of the area of the box, in pixels of the
            model's input; nan without objects, or when the size of the input is not known.
    """

    class_names: tuple[str, ...]
    objects: Objects
    detections: Detections
    matching: Matching
    errors: Errors
    thresholds: np.ndarray
    precisions: np.ndarray
    fixed: dict[str, np.ndarray]
    curves: list[Curve]
    points: list[OperatingPoint]
    joint: OperatingPoint
    confusion: np.ndarray
    sizes: dict[str, tuple[int, float]]
    crowding: dict[str, tuple[int, float]]
    calibration: Calibration
    costs: np.ndarray
    median_sides: np.ndarray

    @property
    def shapes(self) -> str:
        """What the analysis compares: "boxes" or "masks"."""
        return BOXES if self.objects.masks is None else MASKS

    @property
    def class_precisions(self) -> np.ndarray:
        """(K,) AP of each class, the mean over IoU thresholds."""
        return self.precisions.mean(axis=0)

    def gain(self, kind: str) -> float:
        """The increase of mAP50 without the errors of a kind."""
        return _mean(self.fixed[kind] - self.precisions[0])

    def worst_images(self, number: int) -> list[int]:
        """The indices of the images with the highest costs, the worst first; images without costs are omitted."""
        order = np.argsort(-self.costs, kind="stable")[:number]
        return [int(image) for image in order if self.costs[image] > 0]

    def worst_class(self) -> int | None:
        """The class with the lowest AP among those that have objects; None when no class has objects."""
        values = self.class_precisions
        return int(np.nanargmin(values)) if np.isfinite(values).any() else None


def analyse(
    objects: Objects, detections: Detections, class_names: Sequence[str], *, input_scales: np.ndarray | None = None
) -> Analysis:
    """Analyse the errors of the detections of a data set, by masks if the tables have masks, and otherwise by boxes.

    Args:
        objects: the annotated objects.
        detections: the detections at all scores, as for AP. Equal scores are ranked in the order of the rows; COCO's
            AP has them by image id.
        class_names: K names.
        input_scales: (N,) the side of the image that the model receives, divided by that of the original image; nan
            where it is not known.

    Raises:
        ValueError: when there are more or fewer names than classes, a detection is in an image or of a class that
            `objects` does not have, or masks do not fit; see `overlapping_pairs`.
    """
    if len(class_names) != objects.num_classes:
        raise ValueError(f"there are {len(class_names)} names for {objects.num_classes} classes")
    if len(detections) and not 0 <= detections.classes.min() <= detections.classes.max() < objects.num_classes:
        raise ValueError(f"there are detections of classes outside 0..{objects.num_classes - 1}")
    start = time.perf_counter()
    detections = detections.at_most()
    detections = detections[rank_by_class(detections.classes, detections.scores)]  # most steps need this order
    pairs = overlapping_pairs(objects, detections, BACKGROUND_IOU)
    matching = match(objects, detections, pairs, iou=FOREGROUND_IOU)
    curves = class_curves(objects, detections, matching)
    points = [best_point(curve) for curve in curves]
    joint = best_point(joint_curve(objects, detections, matching))
    fallback = joint.threshold if math.isfinite(joint.threshold) else _DEFAULT_THRESHOLD
    thresholds = np.array([point.threshold if math.isfinite(point.threshold) else fallback for point in points])
    at_all_scores = find_errors(objects, detections, pairs, matching)
    _, fixed = precision_if_fixed(objects, detections, matching, at_all_scores)
    analysis = Analysis(
        class_names=tuple(class_names),
        objects=objects,
        detections=detections,
        matching=matching,
        errors=find_errors(objects, detections, pairs, matching, thresholds=thresholds),
        thresholds=thresholds,
        precisions=class_average_precisions(objects, detections, pairs, iou_thresholds=IOU_THRESHOLDS),
        fixed=fixed,
        curves=curves,
        points=points,
        joint=joint,
        confusion=confusion_matrix(objects, detections, pairs, matching, thresholds=thresholds),
        sizes=precision_by_size(objects, detections, pairs),
        crowding=precision_by_crowding(objects, detections, pairs),
        calibration=calibrate(detections, matching),
        costs=find_costs(objects, detections, matching).of_images(detections, objects),
        median_sides=_median_sides(objects, input_scales),
    )
    logger.debug("Analysed %d detections in %.1f s.", len(detections), time.perf_counter() - start)
    return analysis


def _median_sides(objects: Objects, input_scales: np.ndarray | None) -> np.ndarray:
    medians = np.full(objects.num_classes, np.nan)
    if input_scales is None:
        return medians
    sides = np.sqrt(np.prod(objects.boxes[:, 2:] - objects.boxes[:, :2], axis=1)) * input_scales[objects.image]
    is_counted = ~objects.iscrowd & np.isfinite(sides)
    for number in np.unique(objects.classes[is_counted]):
        medians[number] = np.median(sides[is_counted & (objects.classes == number)])
    return medians


def explain(analysis: Analysis) -> list[str]:
    """Sentences for users: the worst class and its reasons, and the kind of error that costs most."""
    worst = analysis.worst_class()
    if worst is None:
        return ["There is no object to detect."]
    sentences = []
    if len(analysis.class_names) > 1:
        sentences = [_explain_class(analysis, worst), *_explain_objects(analysis, worst)]
    kind = max(KINDS, key=analysis.gain)
    gain = 100 * analysis.gain(kind)
    total = 100 * _mean(analysis.precisions[0])
    if gain >= 0.5:
        of_all = "Over all classes" if sentences else f"Of the errors with {analysis.class_names[0]}"
        sentences.append(
            f"{of_all}, {_PLURALS[kind].format(shapes=analysis.shapes)} cost most: "
            f"without them AP50 would be {total + gain:.1f} instead of {total:.1f}."
        )
    elif not sentences or total > 99:
        sentences.append(f"No kind of error costs more than 0.5 points of AP50, which is {total:.1f}.")
    return sentences


_PLURALS = {
    CLASSIFICATION: "wrong classes on right {shapes}",
    LOCALISATION: "{shapes} that overlap their object too little",
    BOTH: "{shapes} of a wrong class that overlap an object too little",
    DUPLICATE: "repeated {shapes} on objects that have been detected",
    BACKGROUND: "{shapes} where no object is",
    MISSED: "missed objects",
}


def _explain_class(analysis: Analysis, number: int) -> str:
    name, count = analysis.class_names[number], int(analysis.objects.per_class()[number])
    precision, at_50 = 100 * analysis.class_precisions[number], 100 * analysis.precisions[0, number]
    count_note = f", of which there are only {count}" if count < _FEW_OBJECTS else ""
    start = f"The worst class is {name}{count_note} (AP {precision:.1f}, AP50 {at_50:.1f})"
    gains = {kind: 100 * (values[number] - analysis.precisions[0, number]) for kind, values in analysis.fixed.items()}
    kind = max(gains, key=lambda kind: gains[kind])
    if at_50 + gains[kind] < _LOST:
        return f"{start}: hardly any detection of it is right, at any score."
    if gains[kind] < max(at_50 - precision, 1.0):
        if at_50 - precision < 1:
            return f"{start}, and it has hardly any error."
        return (
            f"{start}: its objects are detected, but the {analysis.shapes} are not tight; "
            f"AP75 is {100 * analysis.precisions[5, number]:.1f}."
        )
    reason = _reason(analysis, number, kind, count)
    return f"{start}: {reason}; if these errors were fixed, its AP50 would be {at_50 + gains[kind]:.1f}."


def _explain_objects(analysis: Analysis, number: int) -> list[str]:
    """Properties of the objects of a class that make it hard to learn, if it has any, as a sentence."""
    if 100 * analysis.class_precisions[number] > 99:
        return []
    per_class = analysis.objects.per_class()
    count, total, side = int(per_class[number]), int(per_class.sum()), analysis.median_sides[number]
    reasons = []
    if count < 0.5 * total / (per_class > 0).sum():
        reasons.append(f"only {count} of the {total} annotated objects are of this class")
    if side < _SMALL_SIDE:
        reasons.append(
            f"half of its objects have sides below {side:.0f} pixels in the image as the model receives it "
            "(larger input images may help)"
        )
    text = ", and ".join(reasons)
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _reason(analysis: Analysis, number: int, kind: str, count: int) -> str:
    is_detected = analysis.precisions[0, number] > 0  # otherwise no threshold is better than another
    threshold = f" at its best threshold, {analysis.thresholds[number]:.2f}" if is_detected else ""
    errors = analysis.errors.counts(analysis.detections, analysis.objects)
    if kind == MISSED:
        return f"{int(errors[kind][number])} of its {count} objects are missed{threshold}"
    if kind == CLASSIFICATION:
        confused = analysis.confusion[number, :-1].copy()
        confused[number] = 0
        if confused.any():
            wrong = int(confused.argmax())
            return (
                f"{int(confused[wrong])} of its {count} objects are taken for {analysis.class_names[wrong]}{threshold}"
            )
        return f"its {analysis.shapes} lie on objects of other classes"
    description = {
        LOCALISATION: "overlap an object of it too little (IoU 0.1 to 0.5)",
        BOTH: "overlap objects of other classes too little (IoU 0.1 to 0.5)",
        DUPLICATE: "repeat a better one",
        BACKGROUND: "lie where no object is",
    }[kind]
    num_errors = int(errors[kind][number])
    return (
        f"{num_errors} of its {analysis.shapes} {description}{threshold}"
        if num_errors
        else f"{analysis.shapes} with low scores {description}"
    )


def to_json(analysis: Analysis) -> dict[str, Any]:
    """The analysis as JSON: values in percent, 0..100, but scores in 0..1, and None for nan.

    Returns:
        `sentences`; `images`, `objects`, `detections`: numbers of these; `AP`, `AP50`; `all_classes`: the best single
        threshold with its precision, recall and F1; `kinds`: each kind of error with its gain in AP50 and its number at
        the classes' thresholds; `classes`: each with its AP, the median side of its objects in pixels of the model's
        input, its threshold, gains and numbers of errors; `confusion`: [class, detected as, number] with None for no
        object; `sizes`, `crowding`, `calibration`; `curves`: the highest precision at each recall or above.
    """
    counts = analysis.errors.counts(analysis.detections, analysis.objects)
    per_class = analysis.objects.per_class()
    at_50 = analysis.precisions[0]
    return {
        "sentences": explain(analysis),
        "images": analysis.objects.num_images,
        "objects": int(per_class.sum()),
        "detections": len(analysis.detections),
        "AP": _percent(_mean(analysis.class_precisions)),
        "AP50": _percent(_mean(at_50)),
        "all_classes": _point(analysis.joint),
        "kinds": {kind: {"gain": _percent(analysis.gain(kind)), "count": int(counts[kind].sum())} for kind in KINDS},
        "classes": {
            name: {
                "objects": int(per_class[number]),
                "AP": _percent(analysis.class_precisions[number]),
                "AP50": _percent(at_50[number]),
                "AP75": _percent(analysis.precisions[5, number]),
                "median_side": _number(analysis.median_sides[number]),
                **_point(analysis.points[number]),
                "gains": {kind: _percent(analysis.fixed[kind][number] - at_50[number]) for kind in KINDS},
                "errors": {kind: int(counts[kind][number]) for kind in KINDS},
            }
            for number, name in enumerate(analysis.class_names)
        },
        "confusion": _confusions(analysis),
        "sizes": {name: {"objects": count, "AP": _percent(value)} for name, (count, value) in analysis.sizes.items()},
        "crowding": {
            name: {"images": count, "AP": _percent(value)} for name, (count, value) in analysis.crowding.items()
        },
        "calibration": {
            "error": _percent(analysis.calibration.error),
            "score": [_number(value) for value in analysis.calibration.score],
            "precision": [_number(value) for value in analysis.calibration.precision],
            "count": analysis.calibration.counts.tolist(),
        },
        "curves": _curves(analysis),
    }


def write_errors(path: Path, content: dict[str, dict[str, Any]]) -> None:
    """Write the errors of "boxes" and possibly of "masks": results of `to_json`, possibly with additional entries."""
    replace_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def _point(point: OperatingPoint) -> dict[str, float | None]:
    return {
        "threshold": _number(point.threshold),
        "precision": _percent(point.precision),
        "recall": _percent(point.recall),
        "F1": _percent(point.f1),
    }


def _confusions(analysis: Analysis) -> list[list[Any]]:
    names = [*analysis.class_names, None]
    rows, columns = analysis.confusion.nonzero()
    return [
        [names[row], names[column], int(analysis.confusion[row, column])]
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]


def _curves(analysis: Analysis) -> dict[str, Any]:
    with_objects = np.flatnonzero(analysis.objects.per_class()).tolist()
    values = {
        number: interpolated_precision(analysis.curves[number], _RECALLS)
        if len(analysis.curves[number].recall)
        else np.zeros(len(_RECALLS))
        for number in with_objects
    }
    mean = np.mean(list(values.values()), axis=0) if values else np.zeros(0)
    worst = sorted(with_objects, key=lambda number: analysis.precisions[0, number])[:_MOST_CURVES]
    return {
        "recall": [round(float(recall), 2) for recall in _RECALLS],
        "mean": [_number(value) for value in mean],
        "classes": {analysis.class_names[number]: [_number(value) for value in values[number]] for number in worst},
    }


def _percent(value: float) -> float | None:
    return round(100 * float(value), 2) if math.isfinite(value) else None


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
