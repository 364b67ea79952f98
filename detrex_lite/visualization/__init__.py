"""Detections and segments drawn into images, sheets of ground truth beside detections; the page of a run."""

from .batch_sheet import batch_sheet
from .contact_sheet import SheetRow, contact_sheet, ground_truth
from .drawing import class_colour, class_label, draw_detections, draw_segments
from .report import write_report, write_samples

__all__ = [
    "SheetRow",
    "batch_sheet",
    "class_colour",
    "class_label",
    "contact_sheet",
    "draw_detections",
    "draw_segments",
    "ground_truth",
    "write_report",
    "write_samples",
]
