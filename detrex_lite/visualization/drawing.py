"""Draws boxes with labels, masks and panoptic segments into images."""

import colorsys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..structures.masks import as_masks, masks_to_boxes
from .images import fit_text, load_font, to_pil

Colour = tuple[int, int, int]

_OPACITY = 0.45  # of masks, so that the image below remains recognisable

# Colours that differ clearly from each other, and are visible on light and on dark images.
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
    """Return the colour (R, G, B in 0..255) of a class, which depends only on its index."""
    if class_index < len(_PALETTE):
        return _PALETTE[class_index]
    # Steps of the golden ratio spread any number of hues evenly; three levels of brightness separate similar hues.
    hue = class_index * 0.618034 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, (0.95, 0.7, 0.5)[class_index % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def class_label(class_index: int, class_names: Sequence[str] | None) -> str:
    """Return the name of a class, or e.g. "class 3" if it has no name."""
    if class_names is not None and 0 <= class_index < len(class_names):
        return class_names[class_index]
    return f"class {class_index}"


class DrawnObject(NamedTuple):
    """One object to draw.

    Attributes:
        box: xyxy in pixels, clipped to the image.
        class_index: determines the colour.
        label: text at the box; "" for none.
        mask: (H, W) bool, drawn as a tinted region; None for an object without a mask.
        with_box: whether to draw the box, with the label at it; otherwise the label is drawn in the mask.
        colour: (R, G, B) in 0..255 in place of the colour of the class.
        dashed: draw the box dashed.
    """

    box: tuple[float, float, float, float]
    class_index: int
    label: str
    mask: np.ndarray | None = None
    with_box: bool = True
    colour: Colour | None = None
    dashed: bool = False

    @property
    def ink(self) -> Colour:
        """The colour that the object is drawn in."""
        return class_colour(self.class_index) if self.colour is None else self.colour

    def scaled(self, scale: float, size: tuple[int, int]) -> "DrawnObject":
        """Return the object scaled by `scale`, for an image of `size` = (width, height) pixels."""
        x0, y0, x1, y1 = self.box
        mask = self.mask
        if mask is not None:
            grey = Image.fromarray(mask.astype(np.uint8) * 255)
            mask = np.asarray(grey.resize(size, Image.Resampling.BILINEAR)) > 127
        return self._replace(box=(x0 * scale, y0 * scale, x1 * scale, y1 * scale), mask=mask)


def draw_detections(
    image: Any,
    instances: Any,
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.5,
) -> Image.Image:
    """Return a copy of `image` with boxes, labels and masks drawn into it.

    Masks are tinted in the colour of their class and outlined. Line widths and text sizes are proportional to the
    image. A label is placed on top of its box, or elsewhere at or in the box where it does not cover other labels, and
    always inside the image.

    Args:
        image: a PIL image, an (H, W, 3) uint8 RGB array or a (3, H, W) uint8 RGB tensor.
        instances: objects in the frame of the image: `pred_boxes` and `pred_classes`, or `gt_boxes` and `gt_classes`
            (boxes xyxy in pixels). Optional `scores` are written in the labels, and optional masks are drawn:
            `pred_masks` (n, H, W) bool, or `gt_masks` in any form that `detrex_lite.structures.as_masks` supports.
        class_names: names by class index; None writes "class 3".
        score_threshold: objects with lower scores are left out; objects without scores are all drawn.

    Raises:
        ValueError: when the image has an unsupported type, or the boxes are for an image of another size.
    """
    canvas = to_pil(image)
    height, width = getattr(instances, "image_size", canvas.size[::-1])
    _require_size("boxes", (width, height), canvas.size)
    objects = select_objects(instances, class_names, score_threshold, canvas.size)
    draw_objects(canvas, objects)
    return canvas


def draw_segments(image: Any, panoptic_seg: tuple[Any, Any], class_names: Sequence[str] | None = None) -> Image.Image:
    """Return a copy of `image` with the segments of a panoptic segmentation drawn into it.

    Args:
        image: a PIL image, an (H, W, 3) uint8 RGB array or a (3, H, W) uint8 RGB tensor.
        panoptic_seg: the result of a panoptic model: an integer tensor (H, W) with the segment id of each pixel, in
            which 0 is void, and a list with a dict for each segment, of which `id` and `category_id` (the class) are
            read.
        class_names: names by class index; None writes "class 3".

    Raises:
        ValueError: when the image has an unsupported type, or the segments are for an image of another size.
    """
    canvas = to_pil(image)
    draw_objects(canvas, select_segments(panoptic_seg, class_names, canvas.size))
    return canvas


def _require_size(noun: str, size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Raise a ValueError unless the sizes, which are (width, height), are equal."""
    if size != image_size:
        raise ValueError(
            f"the {noun} are for an image of {size[0]} x {size[1]} pixels (width x height), but the image has "
            f"{image_size[0]} x {image_size[1]}"
        )


def select_objects(
    instances: Any, class_names: Sequence[str] | None, score_threshold: float, size: tuple[int, int]
) -> list[DrawnObject]:
    """Return the objects to draw, in descending order of scores, clipped to `size` = (width, height)."""
    boxes = _first_field(instances, "pred_boxes", "gt_boxes")
    classes = _first_field(instances, "pred_classes", "gt_classes").tolist()
    boxes = np.asarray(getattr(boxes, "tensor", boxes).detach().cpu().double()).reshape(-1, 4)
    boxes = boxes.clip(0, np.array([*size, *size])).tolist()
    labels = [class_label(class_index, class_names) for class_index in classes]
    rows = list(range(len(boxes)))
    if hasattr(instances, "scores"):
        scores = instances.scores.tolist()
        rows = sorted((row for row in rows if scores[row] >= score_threshold), key=lambda row: -scores[row])
        labels = [f"{label} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    objects = [DrawnObject(tuple(boxes[row]), classes[row], labels[row]) for row in rows]
    masks = getattr(instances, "pred_masks", getattr(instances, "gt_masks", None))
    if masks is None:
        return objects
    if isinstance(masks, Tensor):
        masks, rows = masks[rows], list(range(len(rows)))  # selected before the transfer from the device
    pixels = as_masks(masks, (size[1], size[0])).cpu().numpy()
    return [item._replace(mask=pixels[row]) for row, item in zip(rows, objects, strict=True)]


def select_segments(
    panoptic_seg: tuple[Any, Any], class_names: Sequence[str] | None, size: tuple[int, int]
) -> list[DrawnObject]:
    """Return the segments to draw into an image of `size` = (width, height), in ascending order of area."""
    ids, infos = panoptic_seg
    _require_size("segments", (ids.shape[1], ids.shape[0]), size)
    ids = ids.cpu()
    segments = []
    for info in infos:
        mask = ids == info["id"]
        [box] = masks_to_boxes(mask[None]).tolist()
        label = class_label(info["category_id"], class_names)
        segment = DrawnObject(tuple(box), info["category_id"], label, mask.numpy(), with_box=False)
        segments.append((int(mask.sum()), segment))
    return [segment for _, segment in sorted(segments, key=lambda pair: pair[0])]


def draw_objects(
    canvas: Image.Image, objects: list[DrawnObject], font_size: int | None = None, line_width: int | None = None
) -> None:
    """Draw `objects` into `canvas`, the first ones on top. Sizes are in pixels; None chooses them by the canvas."""
    side = (canvas.width + canvas.height) / 2
    line_width = line_width or max(1, round(0.4 + side / 280))
    font = load_font(font_size or max(10, round(side / 42)))
    if any(item.mask is not None for item in objects):
        _draw_masks(canvas, objects, max(1, line_width // 2))
    draw = ImageDraw.Draw(canvas)
    for item in reversed(objects):
        if not item.with_box:
            continue
        if item.dashed:
            _draw_dashed(draw, _outline(item.box, line_width), item.ink, line_width)
        else:
            draw.rectangle(_outline(item.box, line_width), outline=item.ink, width=line_width)
    occupied: list[tuple[float, float, float, float]] = []
    labelled = [item for item in objects if item.label]
    placed = [_place_label(item, font, line_width, canvas.size, occupied) for item in labelled]
    for item, (rectangle, text) in reversed(list(zip(labelled, placed, strict=True))):
        _draw_label(draw, rectangle, text, item.ink, font)


def _draw_masks(canvas: Image.Image, objects: list[DrawnObject], line_width: int) -> None:
    """Tint the masks of `objects`, the first ones on top, and draw a line at the border of each, inside it."""
    pixels = np.array(canvas)
    for item in reversed(objects):
        if item.mask is None or not item.mask.any():
            continue
        rows, columns = (np.flatnonzero(item.mask.any(axis=axis)) for axis in (1, 0))
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        mask, colour = item.mask[part], np.array(item.ink)
        inner = mask
        for _ in range(line_width):
            padded = np.pad(inner, 1)
            inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        view = pixels[part]
        view[inner] = np.round((1 - _OPACITY) * view[inner] + _OPACITY * colour)
        view[mask & ~inner] = colour
    canvas.paste(Image.fromarray(pixels))


def _draw_dashed(draw: ImageDraw.ImageDraw, box: tuple[float, ...], colour: Colour, line_width: int) -> None:
    x0, y0, x1, y1 = box
    dash = 4 * line_width
    for start, end, along_x, fixed in (
        (x0, x1, True, y0),
        (x0, x1, True, y1),
        (y0, y1, False, x0),
        (y0, y1, False, x1),
    ):
        position = start
        while position <= end:
            stop = min(position + dash - 1, end)
            line = (position, fixed, stop, fixed) if along_x else (fixed, position, fixed, stop)
            draw.line(line, fill=colour, width=line_width)
            position += 2 * dash


def _outline(box: tuple[float, float, float, float], line_width: int) -> tuple[float, float, float, float]:
    """Return the corners for Pillow, which draws inwards and raises an error for rectangles of negative size."""
    x0, y0, x1, y1 = (round(value) for value in box)
    return x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)


def _place_label(
    item: DrawnObject,
    font: ImageFont.FreeTypeFont,
    line_width: int,
    size: tuple[int, int],
    occupied: list[tuple[float, float, float, float]],
) -> tuple[tuple[float, float, float, float], str]:
    """Return the rectangle of the label (xyxy) and its text; adds the rectangle to `occupied`."""
    padding = max(1, round(font.size / 6))
    text = fit_text(item.label, font, size[0] - 2 * padding)
    ascent, descent = font.getmetrics()
    width, height = round(font.getlength(text)) + 2 * padding, ascent + descent
    if item.with_box:
        x0, y0, x1, y1 = (round(value) for value in item.box)
        inside = line_width // 2
        corners = [
            (x0, y0 - height),  # above the box
            (x1 - width, y0 - height),
            (x0, y1),  # below the box
            (x1 - width, y1),
            (x0 + inside, y0 + inside),  # inside the box
            (x1 - width - inside, y1 - height - inside),
        ]
    else:
        x, y = _label_point(item)
        left, top = x - width // 2, y - height // 2
        corners = [(left, top), (left, top - height), (left, top + height)]
    best, least = (0.0, 0.0, 0.0, 0.0), float("inf")
    for x, y in corners:
        left = min(max(x, 0), max(size[0] - width, 0))
        top = min(max(y, 0), max(size[1] - height, 0))
        place = (left, top, left + width, top + height)
        # A label that is moved into the image may hide its object, which is better than hiding another label.
        covered = sum(_overlap(place, rectangle) for rectangle in occupied) + 0.01 * (abs(left - x) + abs(top - y))
        if covered < least:
            best, least = place, covered
    occupied.append(best)
    return best, text


def _label_point(item: DrawnObject) -> tuple[int, int]:
    """Return (x, y) of the pixel of a mask that is nearest to the mean of its pixels, which may be outside the mask."""
    if item.mask is None or not item.mask.any():
        return round((item.box[0] + item.box[2]) / 2), round((item.box[1] + item.box[3]) / 2)
    y, x = np.nonzero(item.mask)
    nearest = np.hypot(x - np.mean(x), y - np.mean(y)).argmin()
    return int(x[nearest]), int(y[nearest])


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
    # Black or white, whichever is more legible on a colour of this luminance (Rec. 601 weights).
    ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else (255, 255, 255)
    x0, y0, x1, y1 = rectangle
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour)
    draw.text((x0 + max(1, round(font.size / 6)), y0), text, fill=ink, font=font)


def _first_field(instances: Any, *names: str) -> Any:
    for name in names:
        if hasattr(instances, name):
            return getattr(instances, name)
    raise ValueError(f"cannot draw objects without {' or '.join(names)}")
