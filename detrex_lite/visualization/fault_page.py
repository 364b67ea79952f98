"""Writes the faults of a data set as a page with pictures."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFile

from ..data.check import by_kind
from ..data.faults import Fault
from ..errors import printable_lines
from .images import fit_size, jpeg_base64, load_font

_PICTURE_SIZE, _JPEG_QUALITY = 360, 78  # pixels of the longer side
_RED = (230, 25, 75)
_MARGIN = 0.15  # as a fraction of the image's size: boxes are drawn up to this far outside the image


def write_fault_page(faults: Sequence[Fault], out_html: str | Path, *, title: str, pictures: int = 24) -> Path:
    """Write a page, one file without scripts, with the faults of each kind and pictures of the first faults.

    A picture shows the image with the box of the fault. Truncated images are shown as far as they can be decoded.

    Args:
        faults: the faults that a check found.
        out_html: the file to write; its folder is created.
        title: the heading of the page.
        pictures: the number of faults of each kind that are shown with a picture.
    """
    sections = []
    for kind, members in by_kind(faults).items():
        figures: list[str] = []
        lines: list[str] = []
        for fault in members:
            picture = _picture(fault) if len(figures) < pictures else None
            if picture is None:
                lines.append(f"<li>{escape(str(fault))}</li>")
            else:
                image = f'<img alt="{escape(kind)}" src="data:image/jpeg;base64,{picture}">'
                figures.append(f"<figure>{image}<figcaption>{escape(str(fault))}</figcaption></figure>")
        listed = f"<ul>{''.join(lines)}</ul>" if lines else ""
        shown = f'<div class="grid">{"".join(figures)}</div>' if figures else ""
        sections.append(f"<h2>{escape(kind)}: {len(members)}</h2>{shown}{listed}")
    out_html = Path(out_html)
    out_html.parent.mkdir(parents=True, exist_ok=True)
    heading = escape(printable_lines(title))
    out_html.write_text(_PAGE.format(title=heading, style=_STYLE, body="\n".join(sections)), encoding="utf-8")
    return out_html


def _picture(fault: Fault) -> str | None:
    """Return the image of a fault as JPEG in base64; None if it has no image, or no part of it can be decoded."""
    if fault.image is None:
        return None
    image = _decoded(fault.image)
    if image is None:
        return None
    scale, size = fit_size(image.size, _PICTURE_SIZE)
    picture = image.resize(size)
    if fault.box is not None:
        picture = _with_box(picture, [scale * side for side in fault.box])
    return jpeg_base64(picture, _JPEG_QUALITY)


def _decoded(path: str) -> Image.Image | None:
    """Decode an image with Pillow; a truncated image is decoded as far as possible."""
    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception:  # Pillow raises many types for broken files; the fault has the reason
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def _with_box(picture: Image.Image, box: list[float]) -> Image.Image:
    """Return the picture with a box (xyxy in its pixels), on a larger canvas if the box extends beyond the picture."""
    width, height = picture.size
    left, top = (round(_MARGIN * side) for side in (width, height))
    limits = (-left, -top, width + left - 1, height + top - 1)
    if any(side != side for side in box):  # not a number
        return picture
    x0, y0, x1, y1 = (min(max(side, limits[k % 2]), limits[k % 2 + 2]) for k, side in enumerate(box))
    if min(x0, x1) >= 0 and min(y0, y1) >= 0 and max(x0, x1) <= width and max(y0, y1) <= height:
        left = top = 0
    canvas = Image.new("RGB", (width + 2 * left, height + 2 * top), (226, 232, 240))
    canvas.paste(picture, (left, top))
    draw = ImageDraw.Draw(canvas)
    corners = (min(x0, x1) + left, min(y0, y1) + top, max(x0, x1) + left, max(y0, y1) + top)
    draw.rectangle(corners, outline=_RED, width=3)
    if corners[2] - corners[0] < 6 and corners[3] - corners[1] < 6:  # hardly visible
        draw.text((corners[0] + 8, corners[1] - 8), "here", fill=_RED, font=load_font(14))
    return canvas


_STYLE = """
body { margin: 0 auto; padding: 24px; max-width: 1160px; background: #f8fafc; color: #1e293b;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { margin: 0; font-size: 24px } h2 { margin: 32px 0 10px; font-size: 17px }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(280px, 100%), 1fr)); gap: 14px }
figure { margin: 0; padding: 12px 14px; background: #fff; border: 1px solid #e2e8f0; border-radius: 8px }
figure img { max-width: 100%; display: block; margin: 0 auto 8px }
figcaption, li { font-size: 13px; overflow-wrap: anywhere }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>
<body><h1>{title}</h1>
{body}
</body>
</html>
"""
