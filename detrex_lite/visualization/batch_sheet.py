"""Draws a training batch as one picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from .drawing import draw_objects, select_objects
from .images import fit_size, fit_text, load_font, resized, to_pil

MAX_IMAGES = 16
MOST_ENLARGED = 2.5  # enlargement factor of small images, which labels would hide otherwise
_GAP, _CAPTION_HEIGHT, _FONT_SIZE = 10, 22, 13
_BACKGROUND, _TEXT = (250, 250, 250), (60, 60, 60)


def batch_sheet(
    batch: Sequence[dict[str, Any]],
    file: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    panel_size: int = 480,
) -> Path:
    """Write the images of a batch as the model receives them, with their boxes, classes and masks.

    Args:
        batch: samples of a loader: `image` (3, H, W) uint8 RGB, and `instances` with `gt_boxes`, `gt_classes` and
            perhaps `gt_masks`. The first 16 are drawn.
        file: a JPEG or PNG file to write; its folder is created.
        class_names: names by class index; None writes "class 3".
        panel_size: images are scaled to fit a square of this many pixels; small images are enlarged at most 2.5 times.

    Raises:
        ValueError: when there are no images.
    """
    panels = [_panel(sample, class_names, panel_size) for sample in batch[:MAX_IMAGES]]
    if not panels:
        raise ValueError("a sheet of a batch needs at least one image")
    columns = math.ceil(math.sqrt(len(panels)))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    width = max(panel.width for panel in panels) + _GAP
    heights = [max(panel.height for panel in row) + _GAP for row in rows]
    sheet = Image.new("RGB", (columns * width + _GAP, sum(heights) + _GAP), _BACKGROUND)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            sheet.paste(panel, (_GAP + column * width, top))
        top += height
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
    return file


def _panel(sample: dict[str, Any], class_names: Sequence[str] | None, panel_size: int) -> Image.Image:
    """Draw the image of a sample with its objects, above a line with its name, size and number of objects."""
    image = to_pil(sample["image"])
    scale, size = fit_size(image.size, panel_size, MOST_ENLARGED)
    objects = []
    if "instances" in sample:
        objects = select_objects(sample["instances"], class_names, 0.0, image.size)
    drawn = resized(image, size)
    draw_objects(drawn, [drawn_object.scaled(scale, size) for drawn_object in objects], _FONT_SIZE, line_width=2)
    panel = Image.new("RGB", (max(size[0], 160), size[1] + _CAPTION_HEIGHT), _BACKGROUND)
    panel.paste(drawn, (0, 0))
    name = Path(str(sample.get("file_name", ""))).name
    caption = f"{len(objects)} object{'s' * (len(objects) != 1)}, {image.width} x {image.height}  {name}"
    font = load_font(_FONT_SIZE)
    text = fit_text(caption, font, panel.width)
    ImageDraw.Draw(panel).text((0, size[1] + _CAPTION_HEIGHT // 2), text, fill=_TEXT, font=font, anchor="lm")
    return panel
