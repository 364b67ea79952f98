"""Draws the errors of detections into images, with one colour for each kind of error."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..analysis import KINDS, Analysis, Detections, Objects
from .drawing import Colour, DrawnObject, class_label, draw_objects
from .images import fit_size, resized, to_pil

KIND_COLOURS: dict[str, Colour] = {
    "classification": (245, 130, 49),
    "localisation": (67, 99, 216),
    "both": (145, 30, 180),
    "duplicate": (0, 184, 212),
    "background": (230, 25, 75),
    "missed": (240, 50, 230),
}
RIGHT_COLOUR: Colour = (60, 180, 75)
_ANNOTATED_COLOUR: Colour = (71, 85, 105)

_MOST_LABELS = 25
_FONT_SIZE, _LINE_WIDTH = 13, 2


class ErrorPicture(NamedTuple):
    """An image with its annotations and the image with its detections, and a caption."""

    panels: list[Image.Image]
    caption: str


def draw_errors(image: Any, analysis: Analysis, position: int, panel_size: int, name: str = "") -> ErrorPicture:
    """Mark the correct and the wrong detections of one image, at the thresholds of the classes.

    For an analysis of masks, masks are drawn instead of boxes; missed objects have both.

    Args:
        image: a PIL image, an (H, W, 3) uint8 RGB array or a (3, H, W) uint8 RGB tensor, of the annotated size.
        analysis: the analysis of the data set.
        position: position of the image in the data set.
        panel_size: each picture is scaled to fit a square of this many pixels.
        name: name of the image, for the caption.
    """
    picture = to_pil(image)
    scale, size = fit_size(picture.size, panel_size)
    panels = []
    for parts in ((_annotated,), (_missed, _detected)):
        panel = resized(picture, size)
        # One by one, because masks of the size of a large image take much memory.
        objects = [item.scaled(scale, size) for part in parts for item in part(analysis, position)]
        draw_objects(panel, objects, _FONT_SIZE, _LINE_WIDTH)
        panels.append(panel)
    counts = analysis.errors.counts_of_images(analysis.detections, analysis.objects)
    errors = ", ".join(f"{values[position]} {kind}" for kind, values in counts.items() if values[position])
    cost = f"costs {100 * analysis.costs[position]:.2g} points of AP50"
    return ErrorPicture(panels, " · ".join(filter(None, (name, cost, errors or "errors below the thresholds only"))))


def _annotated(analysis: Analysis, position: int) -> Iterator[DrawnObject]:
    objects = analysis.objects
    for place, row in enumerate(np.flatnonzero((objects.image == position) & ~objects.iscrowd).tolist()):
        label = class_label(int(objects.classes[row]), analysis.class_names) if place < _MOST_LABELS else ""
        yield _drawn(objects, row, label, _ANNOTATED_COLOUR)


def _missed(analysis: Analysis, position: int) -> Iterator[DrawnObject]:
    objects = analysis.objects
    for row in np.flatnonzero((objects.image == position) & analysis.errors.missed)[:_MOST_LABELS].tolist():
        label = f"{class_label(int(objects.classes[row]), analysis.class_names)} missed"
        yield _drawn(objects, row, label, KIND_COLOURS["missed"])._replace(with_box=True, dashed=True)


def _detected(analysis: Analysis, position: int) -> Iterator[DrawnObject]:
    """Yield the wrong detections, followed by the correct ones without labels. The first are drawn on top."""
    detections, names = analysis.detections, analysis.class_names
    rows = np.flatnonzero(detections.image == position)
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    for row in rows[analysis.errors.kind[rows] >= 0][:_MOST_LABELS].tolist():
        label = f"{class_label(int(detections.classes[row]), names)} {detections.scores[row]:.2f}"
        kind = KINDS[analysis.errors.kind[row]]
        if kind == "classification":
            label += f", is {class_label(int(analysis.objects.classes[analysis.errors.object[row]]), names)}"
        yield _drawn(detections, row, label, KIND_COLOURS[kind])
    shown = detections.scores[rows] >= analysis.thresholds[detections.classes[rows]]
    for row in rows[analysis.matching.right[rows] & shown].tolist():
        yield _drawn(detections, row, "", RIGHT_COLOUR)


def _drawn(table: Objects | Detections, row: int, label: str, colour: Colour) -> DrawnObject:
    x0, y0, x1, y1 = table.boxes[row].tolist()
    mask = None if table.masks is None else table.masks.pixels(row)
    return DrawnObject((x0, y0, x1, y1), int(table.classes[row]), label, mask, with_box=mask is None, colour=colour)
