"""Detections drawn into images, sheets of ground truth beside detections; the page of a run, with its curves."""

from .contact_sheet import SheetRow, contact_sheet
from .drawing import class_colour, class_label, draw_detections
from .report import write_report, write_samples

__all__ = [
    "SheetRow",
    "class_colour",
    "class_label",
    "contact_sheet",
    "draw_detections",
    "write_report",
    "write_samples",
]
