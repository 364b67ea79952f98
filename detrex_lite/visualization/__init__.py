"""Draws detections and segments into images, sheets that compare them with ground truth, and the report of a run."""

from .batch_sheet import batch_sheet
from .contact_sheet import SheetRow, contact_sheet, ground_truth
from .drawing import class_colour, class_label, draw_detections, draw_segments
from .error_pictures import draw_errors
from .query_pictures import draw_attention, draw_query_places, draw_refinement
from .report import denoising_ratios, write_decoder_page, write_error_page, write_report, write_samples

__all__ = [
    "SheetRow",
    "batch_sheet",
    "class_colour",
    "class_label",
    "contact_sheet",
    "denoising_ratios",
    "draw_attention",
    "draw_detections",
    "draw_errors",
    "draw_query_places",
    "draw_refinement",
    "draw_segments",
    "ground_truth",
    "write_decoder_page",
    "write_error_page",
    "write_report",
    "write_samples",
]
