"""Average precision as COCO defines it, and the loop that runs a model over a data set."""

from .coco_evaluator import CocoEvaluator
from .detectron2_evaluator import detectron2_coco_evaluator
from .loop import run_evaluation
from .table import format_table

__all__ = ["CocoEvaluator", "detectron2_coco_evaluator", "format_table", "run_evaluation"]
