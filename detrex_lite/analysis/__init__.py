"""Analysis of a detector's errors by boxes or by masks: pure functions of annotations and detections.

`analyse` computes everything at once; the report of each evaluation shows its result.
"""

from .confusion import Calibration, calibrate, confusion_matrix
from .errors import KINDS, MEANINGS, Costs, Errors, find_costs, find_errors, precision_if_fixed
from .masks import Masks
from .matching import Matching, Pairs, match, overlapping_pairs
from .precision import (
    Curve,
    OperatingPoint,
    average_precisions,
    best_point,
    class_average_precisions,
    class_curves,
    joint_curve,
    precision_by_crowding,
    precision_by_size,
)
from .summary import BOXES, ERRORS_FILE, MASKS, SHAPES, Analysis, analyse, explain, to_json, write_errors
from .tables import Detections, Objects, make_detections, make_objects, objects_of

__all__ = [
    "BOXES",
    "ERRORS_FILE",
    "KINDS",
    "MASKS",
    "MEANINGS",
    "SHAPES",
    "Analysis",
    "Calibration",
    "Costs",
    "Curve",
    "Detections",
    "Errors",
    "Masks",
    "Matching",
    "Objects",
    "OperatingPoint",
    "Pairs",
    "analyse",
    "average_precisions",
    "best_point",
    "calibrate",
    "class_average_precisions",
    "class_curves",
    "confusion_matrix",
    "explain",
    "find_costs",
    "find_errors",
    "joint_curve",
    "make_detections",
    "make_objects",
    "match",
    "objects_of",
    "overlapping_pairs",
    "precision_by_crowding",
    "precision_by_size",
    "precision_if_fixed",
    "to_json",
    "write_errors",
]
