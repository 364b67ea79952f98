"""Converts users' images to PIL images, resizes and encodes them, and loads the font."""

import base64
import io
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFont
from torch import Tensor


def to_pil(image: Any) -> Image.Image:
    """Return a new RGB image from a PIL image, an (H, W, 3) uint8 RGB array or a (3, H, W) uint8 RGB tensor.

    Raises:
        ValueError: for other types and shapes.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    if isinstance(image, Tensor):
        expected, array = "(3, H, W) uint8 tensor", image.detach().cpu().numpy()
        valid = array.ndim == 3 and array.shape[0] == 3
        channels_last = array.transpose(1, 2, 0) if valid else array
    elif isinstance(image, np.ndarray):
        expected, array = "(H, W, 3) uint8 array", image
        valid = array.ndim == 3 and array.shape[2] == 3
        channels_last = array
    else:
        raise ValueError(
            f"cannot draw into a {type(image).__name__}; give a PIL image, an (H, W, 3) uint8 array or a "
            "(3, H, W) uint8 tensor"
        )
    if not valid or array.dtype != np.uint8:
        raise ValueError(f"an image must be a {expected} in RGB, got shape {array.shape} of {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(channels_last))


def fit_size(size: tuple[int, int], side: int, largest_scale: float = math.inf) -> tuple[float, tuple[int, int]]:
    """Return the scale at which a picture of `size` = (width, height) fits a square of `side` pixels, and its new size.

    Args:
        size: in pixels.
        side: the longer side afterwards.
        largest_scale: small pictures are not enlarged more than this.
    """
    scale = min(largest_scale, side / max(size))
    return scale, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image at another size, (width, height) in pixels, with the filter that suits the direction."""
    is_smaller = max(size) < max(image.size)
    return image.resize(size, Image.Resampling.LANCZOS if is_smaller else Image.Resampling.BICUBIC)


def jpeg_base64(image: Image.Image, quality: int) -> str:
    """Return the image as JPEG in base64, for pages that are one file."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


@lru_cache(maxsize=32)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font of labels and captions at `size` pixels.

    It is included in matplotlib, so that it is the same on every machine, and supports most alphabets. Pillow's default
    font supports only ASCII, and lacks even "é" and "…".
    """
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return `text`, shortened with an ellipsis if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""
