"""Draws several images as one picture, each twice: with its ground truth and with its detections."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from ..data import PanopticSegments
from ..structures import Boxes, Instances
from .drawing import draw_objects, select_objects, select_segments
from .images import fit_size, fit_text, load_font, resized, to_pil

_BACKGROUND, _TEXT, _FAINT = (250, 250, 250), (30, 30, 30), (110, 110, 110)
_GAP, _CAPTION_HEIGHT, _HEADER_HEIGHT, _FONT_SIZE = 12, 24, 34, 15


class SheetRow(NamedTuple):
    """One image of a contact sheet.

    Attributes:
        image: a PIL image, an (H, W, 3) uint8 RGB array or a (3, H, W) uint8 RGB tensor.
        ground_truth: has `gt_boxes` (xyxy in pixels of the image) and `gt_classes`, and optionally `gt_masks`; or a
            panoptic segmentation, a tuple as for `draw_segments`.
        detections: has `pred_boxes`, `pred_classes` and `scores`, and optionally `pred_masks`; or a panoptic
            segmentation.
        caption: text in front of the counts of objects, e.g. the file's name.
    """

    image: Any
    ground_truth: Any
    detections: Any
    caption: str = ""


def ground_truth(record: dict[str, Any]) -> Any:
    """Return the annotations of an image of a `DetectionDataset`, for `SheetRow`.

    Args:
        record: a record of the data set. The result has its masks if it has any, or its panoptic segments.
    """
    segmentations = record.get("segmentations")
    if isinstance(segmentations, PanopticSegments):
        ids, classes = record["annotation_ids"].tolist(), record["classes"].tolist()
        infos = [{"id": segment_id, "category_id": k} for segment_id, k in zip(ids, classes, strict=True)]
        return segmentations.label_map(), infos
    truth = Instances(
        (record["height"], record["width"]), gt_boxes=Boxes(record["boxes"]), gt_classes=record["classes"]
    )
    if segmentations is not None:
        truth.gt_masks = segmentations
    return truth


def contact_sheet(
    rows: Iterable[SheetRow | tuple],
    out_png: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.5,
    columns: int = 2,
    panel_size: int = 320,
) -> Path:
    """Write a picture of several images with their ground truth next to their detections.

    Args:
        rows: `SheetRow`s, or tuples with the same values.
        out_png: the file to write; its folder is created.
        class_names: names by class index.
        score_threshold: detections with lower scores are left out.
        columns: number of pairs of pictures in a row.
        panel_size: each picture is scaled to fit a square of this many pixels.

    Raises:
        ValueError: when there are no rows, or for images that cannot be drawn into.
    """
    pairs = [draw_pair(SheetRow(*row), class_names, score_threshold, panel_size) for row in rows]
    if not pairs:
        raise ValueError("a contact sheet needs at least one image")
    columns = min(columns, len(pairs))
    lines = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    heights = [max(panel.height for pair in line for panel in pair.panels) for line in lines]
    pair_width = 2 * panel_size + _GAP // 2
    lefts = [2 * _GAP + column * (pair_width + 2 * _GAP) for column in range(columns)]
    size = (
        lefts[-1] + pair_width + 2 * _GAP,
        _HEADER_HEIGHT + sum(heights) + len(lines) * (_CAPTION_HEIGHT + _GAP),
    )
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), load_font(_FONT_SIZE)
    for left in lefts:
        for text, x in (("ground truth", left), ("detections", left + panel_size + _GAP // 2)):
            draw.text((x, _HEADER_HEIGHT // 2), text, fill=_TEXT, font=font, anchor="lm")
    top = _HEADER_HEIGHT
    for line, height in zip(lines, heights, strict=True):
        for left, pair in zip(lefts, line, strict=False):
            for number, panel in enumerate(pair.panels):
                x = left + number * (panel_size + _GAP // 2) + (panel_size - panel.width) // 2
                sheet.paste(panel, (x, top + (height - panel.height) // 2))
            caption = fit_text(pair.caption, font, pair_width)
            draw.text((left, top + height + _CAPTION_HEIGHT // 2), caption, fill=_FAINT, font=font, anchor="lm")
        top += height + _CAPTION_HEIGHT + _GAP
    out_png = Path(out_png)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out_png, format="PNG")
    return out_png


class Pair(NamedTuple):
    """An image with its ground truth and the image with its detections, and a caption with their counts."""

    panels: list[Image.Image]
    caption: str


def draw_pair(row: SheetRow, class_names: Sequence[str] | None, score_threshold: float, panel_size: int) -> Pair:
    """Draw one row; the arguments are those of `contact_sheet`."""
    image = to_pil(row.image)
    scale, size = fit_size(image.size, panel_size)
    panels, counts = [], []
    for instances, noun in ((row.ground_truth, "object"), (row.detections, "detection")):
        # Drawn after scaling, so that labels are sharp and have the same size on the whole sheet.
        if isinstance(instances, tuple):
            objects, noun = select_segments(instances, class_names, image.size), "segment"
        else:
            objects = select_objects(instances, class_names, score_threshold, image.size)
        panel = resized(image, size)
        draw_objects(panel, [drawn_object.scaled(scale, size) for drawn_object in objects], font_size=13, line_width=2)
        panels.append(panel)
        counts.append(f"{len(objects)} {noun}{'' if len(objects) == 1 else 's'}")
    return Pair(panels, " · ".join(part for part in (row.caption, ", ".join(counts)) if part))
