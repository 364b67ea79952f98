"""Draws the errors of detections into images, with one colour for each kind of error."""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..analysis import KINDS, Analysis
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
    for objects in (_annotated(analysis, position), [*_missed(analysis, position), *_detected(analysis, position)]):
        panel = resized(picture, size)
        draw_objects(panel, [item.scaled(scale, size) for item in objects], _FONT_SIZE, _LINE_WIDTH)
        panels.append(panel)
    counts = analysis.errors.counts_of_images(analysis.detections, analysis.objects)
    errors = ", ".join(f"{values[position]} {kind}" for kind, values in counts.items() if values[position])
    cost = f"costs {100 * analysis.costs[position]:.2g} points of AP50"
    return ErrorPicture(panels, " · ".join(filter(None, (name, cost, errors or "errors below the thresholds only"))))


def _annotated(analysis: Analysis, position: int) -> list[DrawnObject]:
    rows = np.flatnonzero((analysis.objects.image == position) & ~analysis.objects.iscrowd)
    names = analysis.class_names
    return [
        _drawn(
            analysis.objects.boxes[row], int(k), class_label(int(k), names) if place < _MOST_LABELS else ""
        )._replace(colour=_ANNOTATED_COLOUR)
        for place, (row, k) in enumerate(zip(rows, analysis.objects.classes[rows], strict=True))
    ]


def _missed(analysis: Analysis, position: int) -> list[DrawnObject]:
    rows = np.flatnonzero((analysis.objects.image == position) & analysis.errors.missed)
    return [
        _drawn(analysis.objects.boxes[row], int(k), f"{class_label(int(k), analysis.class_names)} missed")._replace(
            colour=KIND_COLOURS["missed"], dashed=True
        )
        for row, k in zip(rows[:_MOST_LABELS], analysis.objects.classes[rows], strict=False)
    ]


def _detected(analysis: Analysis, position: int) -> list[DrawnObject]:
    """Return the wrong detections, followed by the correct ones without labels. The first are drawn on top."""
    detections, names = analysis.detections, analysis.class_names
    rows = np.flatnonzero(detections.image == position)
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    wrong = []
    for row in rows[analysis.errors.kind[rows] >= 0][:_MOST_LABELS]:
        label = f"{class_label(int(detections.classes[row]), names)} {detections.scores[row]:.2f}"
        kind = KINDS[analysis.errors.kind[row]]
        if kind == "classification":
            label += f", is {class_label(int(analysis.objects.classes[analysis.errors.object[row]]), names)}"
        drawn = _drawn(detections.boxes[row], int(detections.classes[row]), label)
        wrong.append(drawn._replace(colour=KIND_COLOURS[kind]))
    shown = detections.scores[rows] >= analysis.thresholds[detections.classes[rows]]
    right = rows[analysis.matching.right[rows] & shown]
    return wrong + [
        _drawn(detections.boxes[row], int(detections.classes[row]), "")._replace(colour=RIGHT_COLOUR) for row in right
    ]


def _drawn(box: np.ndarray, class_index: int, label: str) -> DrawnObject:
    x0, y0, x1, y1 = box.tolist()
    return DrawnObject((x0, y0, x1, y1), class_index, label)
