"""Metrics as text."""

import math
from collections.abc import Sequence

from .pycocotools_bridge import METRIC_NAMES

MAX_COLUMNS = 4
"""Classes side by side in the table of classes."""


def format_table(results: dict[str, dict[str, float]]) -> str:
    """What `CocoEvaluator.evaluate` returned, as text for a terminal: COCO's numbers, then AP per class.

    All in percent; a dash stands for what has no ground truth.
    """
    metrics = results.get("bbox")
    if not metrics:
        return "no metrics (the data set has no annotations)"
    present = [name for name in METRIC_NAMES if name in metrics]
    parts = [
        _layout([names, [_number(metrics[name]) for name in names]]) for names in (present[:6], present[6:]) if names
    ]
    classes = [(name.removeprefix("AP-"), value) for name, value in metrics.items() if name.startswith("AP-")]
    if classes:
        parts.append(_classes(classes))
    return "\n\n".join(parts)


def _classes(classes: list[tuple[str, float]]) -> str:
    columns = min(MAX_COLUMNS, math.ceil(len(classes) / 10))
    height = math.ceil(len(classes) / columns)
    cells = [("class", "AP"), *((name, _number(value)) for name, value in classes)]
    header, cells = cells[0], cells[1:]
    rows = [list(header) * columns]
    for row in range(height):
        rows.append([text for cell in cells[row::height] for text in cell])
    return _layout(rows, left=range(0, 2 * columns, 2))


def _layout(rows: list[list[str]], left: Sequence[int] = ()) -> str:
    """Aligned columns: to the right, but those in `left` to the left."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(widths[i]) if i in left else text.rjust(max(widths[i], 6)) for i, text in enumerate(row))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
