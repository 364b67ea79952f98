"""COCO average precision, panoptic quality, and the loop that runs a model over a data set."""

from .coco_evaluator import CocoEvaluator
from .combined_evaluator import CombinedEvaluator
from .detectron2_evaluator import detectron2_coco_evaluator
from .loop import run_evaluation
from .panoptic_evaluator import PanopticEvaluator
from .table import format_table

__all__ = [
    "CocoEvaluator",
    "CombinedEvaluator",
    "PanopticEvaluator",
    "detectron2_coco_evaluator",
    "format_table",
    "run_evaluation",
]
