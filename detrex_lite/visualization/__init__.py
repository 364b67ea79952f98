"""Detections drawn into images, sheets of ground truth beside detections, and training curves; the page of a run."""

from .contact_sheet import SheetRow, contact_sheet
from .curves import plot_curves
from .drawing import class_colour, class_label, draw_detections
from .report import write_report, write_samples

__all__ = [
    "SheetRow",
    "class_colour",
    "class_label",
    "contact_sheet",
    "draw_detections",
    "plot_curves",
    "write_report",
    "write_samples",
]
