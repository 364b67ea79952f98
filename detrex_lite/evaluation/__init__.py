"""Average precision as COCO defines it, and the loop that runs a model over a data set."""

from .coco_evaluator import CocoEvaluator
from .loop import run_evaluation
from .table import format_table

__all__ = ["CocoEvaluator", "format_table", "run_evaluation"]
