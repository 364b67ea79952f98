"""Formatting of metrics as text."""

import math
from collections.abc import Sequence

from .pycocotools_bridge import METRIC_NAMES

MAX_COLUMNS = 4
"""Number of classes per row in the table of classes."""


def format_table(results: dict[str, dict[str, float]]) -> str:
    """Format the results of evaluators for a terminal: COCO's numbers and AP per class of boxes and of masks, and
    panoptic quality with PQ per class.

    All values are in percent; a dash stands for metrics without ground truth.
    """
    parts = [(title, layout(results[group])) for group, (title, layout) in _GROUPS.items() if results.get(group)]
    if not parts:
        return "no metrics (the data set has no annotations)"
    if len(parts) == 1 and results.get("bbox"):
        return parts[0][1]
    return "\n\n".join(f"{title}:\n{text}" for title, text in parts)


def _average_precision(metrics: dict[str, float]) -> str:
    present = [name for name in METRIC_NAMES if name in metrics]
    parts = [
        _layout([names, [_number(metrics[name]) for name in names]]) for names in (present[:6], present[6:]) if names
    ]
    classes = [(name.removeprefix("AP-"), value) for name, value in metrics.items() if name.startswith("AP-")]
    if classes:
        parts.append(_classes(classes, "AP"))
    return "\n\n".join(parts)


def _panoptic_quality(metrics: dict[str, float]) -> str:
    names = ("PQ", "SQ", "RQ")
    rows = [["", *names]]
    for label, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st")):
        rows.append([label, *(_number(metrics[f"{name}{suffix}"]) for name in names)])
    classes = [(name.removeprefix("PQ-"), value) for name, value in metrics.items() if name.startswith("PQ-")]
    return f"{_layout(rows, left_aligned=[0])}\n\n{_classes(classes, 'PQ')}"


_GROUPS = {
    "bbox": ("Boxes", _average_precision),
    "segm": ("Masks", _average_precision),
    "panoptic_seg": ("Panoptic segmentation", _panoptic_quality),
}


def _classes(classes: list[tuple[str, float]], name: str) -> str:
    columns = min(MAX_COLUMNS, math.ceil(len(classes) / 10))
    height = math.ceil(len(classes) / columns)
    cells = [("class", name), *((class_name, _number(value)) for class_name, value in classes)]
    header, cells = cells[0], cells[1:]
    rows = [list(header) * columns]
    for row in range(height):
        rows.append([text for cell in cells[row::height] for text in cell])
    return _layout(rows, left_aligned=range(0, 2 * columns, 2))


def _layout(rows: list[list[str]], left_aligned: Sequence[int] = ()) -> str:
    """Align columns to the right, except those in `left_aligned`."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(widths[i]) if i in left_aligned else text.rjust(max(widths[i], 6)) for i, text in enumerate(row)
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
