"""Boxes with labels, drawn into images."""

import colorsys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .images import fit_text, load_font, to_pil

Colour = tuple[int, int, int]

# Far apart from each other, and all of them visible on light and on dark images.
_PALETTE: tuple[Colour, ...] = (
    (230, 25, 75),  # red
    (60, 180, 75),  # green
    (67, 99, 216),  # blue
    (245, 130, 49),  # orange
    (145, 30, 180),  # purple
    (0, 184, 212),  # cyan
    (240, 50, 230),  # magenta
    (154, 205, 50),  # lime
    (255, 157, 167),  # pink
    (0, 128, 128),  # teal
    (176, 122, 255),  # lavender
    (154, 99, 36),  # brown
    (255, 193, 7),  # amber
    (170, 0, 0),  # maroon
    (69, 208, 158),  # mint
    (128, 128, 0),  # olive
    (32, 32, 176),  # navy
    (127, 127, 127),  # grey
)


def class_colour(class_index: int) -> Colour:
    """The colour (R, G, B in 0..255) of a class: always the same one for the same index."""
    if class_index < len(_PALETTE):
        return _PALETTE[class_index]
    # Steps of the golden ratio spread any number of hues evenly; three levels of brightness part close ones.
    hue = class_index * 0.618034 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, (0.95, 0.7, 0.5)[class_index % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def class_label(class_index: int, class_names: Sequence[str] | None) -> str:
    """The name of a class, or "class 3" where there is none."""
    if class_names is not None and 0 <= class_index < len(class_names):
        return class_names[class_index]
    return f"class {class_index}"


class DrawnBox(NamedTuple):
    """One object to draw: xyxy in pixels, clipped to the image."""

    box: tuple[float, float, float, float]
    class_index: int
    label: str


def draw_detections(
    image: Any,
    instances: Any,
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.5,
) -> Image.Image:
    """A copy of `image` with boxes and labels drawn into it.

    Lines and text grow with the image. A label stands on its box, or at another place on or in it where it
    covers no other label, and always inside the image.

    Args:
        image: a PIL image, an (H, W, 3) uint8 RGB array or a (3, H, W) uint8 RGB tensor.
        instances: objects in the frame of the image: `pred_boxes` and `pred_classes`, or `gt_boxes` and
            `gt_classes` (boxes xyxy in pixels); with `scores`, those are in the labels.
        class_names: names by class index; None writes "class 3".
        score_threshold: objects with lower scores are left out; without scores all are drawn.

    Raises:
        ValueError: when the image is of another kind, or the boxes are for an image of another size.
    """
    canvas = to_pil(image)
    height, width = getattr(instances, "image_size", canvas.size[::-1])
    if (width, height) != canvas.size:
        raise ValueError(
            f"the boxes are for an image of {width} x {height} pixels (width x height), but the image has "
            f"{canvas.width} x {canvas.height}"
        )
    objects = select_objects(instances, class_names, score_threshold, canvas.size)
    draw_objects(canvas, objects)
    return canvas


def select_objects(
    instances: Any, class_names: Sequence[str] | None, score_threshold: float, size: tuple[int, int]
) -> list[DrawnBox]:
    """The objects to draw, those with the highest scores first, clipped to `size` = (width, height)."""
    boxes = _first_field(instances, "pred_boxes", "gt_boxes")
    classes = _first_field(instances, "pred_classes", "gt_classes").tolist()
    boxes = np.asarray(getattr(boxes, "tensor", boxes).detach().cpu().double()).reshape(-1, 4)
    boxes = boxes.clip(0, np.array([*size, *size]))
    labels = [class_label(class_index, class_names) for class_index in classes]
    objects = [
        DrawnBox(tuple(box), class_index, label)
        for box, class_index, label in zip(boxes.tolist(), classes, labels, strict=True)
    ]
    if not hasattr(instances, "scores"):
        return objects
    scores = instances.scores.tolist()
    ranked = sorted(zip(scores, objects, strict=True), key=lambda pair: -pair[0])
    return [one._replace(label=f"{one.label} {score:.2f}") for score, one in ranked if score >= score_threshold]


def draw_objects(
    canvas: Image.Image, objects: list[DrawnBox], font_size: int | None = None, line_width: int | None = None
) -> None:
    """Draw `objects` into `canvas`, the first ones on top. Sizes in pixels; None: as fits the canvas."""
    side = (canvas.width + canvas.height) / 2
    line_width = line_width or max(1, round(0.4 + side / 280))
    font = load_font(font_size or max(10, round(side / 42)))
    draw = ImageDraw.Draw(canvas)
    for one in reversed(objects):
        draw.rectangle(_outline(one.box, line_width), outline=class_colour(one.class_index), width=line_width)
    taken: list[tuple[float, float, float, float]] = []
    placed = [_place_label(one, font, line_width, canvas.size, taken) for one in objects]
    for one, (rectangle, text) in reversed(list(zip(objects, placed, strict=True))):
        _draw_label(draw, rectangle, text, class_colour(one.class_index), font)


def _outline(box: tuple[float, float, float, float], line_width: int) -> tuple[float, float, float, float]:
    """The corners for Pillow, which draws inwards and fails on a rectangle that ends before it begins."""
    x0, y0, x1, y1 = (round(value) for value in box)
    return x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)


def _place_label(
    one: DrawnBox,
    font: ImageFont.FreeTypeFont,
    line_width: int,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> tuple[tuple[float, float, float, float], str]:
    """Where the label goes (xyxy), and its text; adds the place to `taken`."""
    padding = max(1, round(font.size / 6))
    text = fit_text(one.label, font, size[0] - 2 * padding)
    ascent, descent = font.getmetrics()
    width, height = round(font.getlength(text)) + 2 * padding, ascent + descent
    x0, y0, x1, y1 = (round(value) for value in one.box)
    inside = line_width // 2
    corners = [
        (x0, y0 - height),  # on the box
        (x1 - width, y0 - height),
        (x0, y1),  # under it
        (x1 - width, y1),
        (x0 + inside, y0 + inside),  # in it
        (x1 - width - inside, y1 - height - inside),
    ]
    best, least = (0.0, 0.0, 0.0, 0.0), float("inf")
    for x, y in corners:
        left = min(max(x, 0), max(size[0] - width, 0))
        top = min(max(y, 0), max(size[1] - height, 0))
        place = (left, top, left + width, top + height)
        # A place that had to be moved into the image may hide the object itself: better than another label.
        covered = sum(_overlap(place, other) for other in taken) + 0.01 * (abs(left - x) + abs(top - y))
        if covered < least:
            best, least = place, covered
    taken.append(best)
    return best, text


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    rectangle: tuple[float, float, float, float],
    text: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont,
) -> None:
    red, green, blue = colour
    # Black or white, whichever is easier to read on a colour of this luminance (Rec. 601 weights).
    ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else (255, 255, 255)
    x0, y0, x1, y1 = rectangle
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour)
    draw.text((x0 + max(1, round(font.size / 6)), y0), text, fill=ink, font=font)


def _first_field(instances: Any, *names: str) -> Any:
    for name in names:
        if hasattr(instances, name):
            return getattr(instances, name)
    raise ValueError(f"cannot draw objects without {' or '.join(names)}")
