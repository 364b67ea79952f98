"""Photographs without torch: decoding any file that Pillow opens, as RGB, turned the way that it is shown; sizes."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def shortest_edge_size(height: int, width: int, short_edge: int, max_size: int | None = None) -> tuple[int, int]:
    """The size that an image is resized to, by the rule of DETR's published code.

    The short edge becomes `short_edge`, or less where the long edge would pass `max_size`; that shorter
    length is rounded, then the long edge is cut to whole pixels. (detectron2 rounds both edges, torchvision
    cuts both: they differ from this by a pixel at some sizes, and by as much from what the published weights
    were evaluated on.)

    Args:
        height, width: of the image in pixels.
        short_edge: wanted length of the short edge.
        max_size: limit of the long edge.

    Returns:
        (height, width), each at least 1.
    """
    short, long = min(height, width), max(height, width)
    if max_size is not None and long / short * short_edge > max_size:
        short_edge = max(round(max_size * short / long), 1)
    if short == short_edge:
        return height, width
    long_edge = int(short_edge * long / short)
    return (short_edge, long_edge) if height <= width else (long_edge, short_edge)


class PhotographError(ValueError):
    """An image is missing, or is no whole image."""


def read_photograph(path: str | Path) -> np.ndarray:
    """Decode an image file.

    The EXIF orientation is applied. Grey, palette, CMYK and 16-bit images become 8-bit RGB, transparency is
    dropped, and of an animation the first frame is read.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        PhotographError: when the file is missing or is no whole image; the message names it.
    """
    try:
        with Image.open(os.path.expanduser(path)) as image:
            return _decoded(image, _orientation(image))
    except FileNotFoundError:
        raise not_there(path) from None
    except Exception as error:  # Pillow raises what its decoders raise, of a dozen types; large images take memory
        raise PhotographError(f"image {path} cannot be read: {_reason(error)}") from error


def decode_photograph(image: Image.Image) -> np.ndarray:
    """The pixels of an image that Pillow holds or has opened, as `read_photograph` gives them, but not turned.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        PhotographError: when it cannot be decoded.
    """
    try:
        return _decoded(image)
    except Exception as error:  # as above
        raise PhotographError(f"the PIL image cannot be read: {_reason(error)}") from error


def read_photograph_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels of the image as `read_photograph` would return it; only the header is read.

    Raises:
        PhotographError: when the file is missing or is no image.
    """
    try:
        with Image.open(os.path.expanduser(path)) as image:
            width, height = image.size
            exchanged = _orientation(image) >= 5
    except FileNotFoundError:
        raise not_there(path) from None
    except Exception as error:  # as above
        raise PhotographError(f"image {path} cannot be read: {_reason(error)}") from error
    return (width, height) if exchanged else (height, width)


def not_there(path: str | Path) -> PhotographError:
    """The error for a path where there is no file."""
    if "://" in str(path):
        return PhotographError(f"{path} is an address, and images are read from files: download it and give its path")
    return PhotographError(f"image {path} does not exist")


def _decoded(image: Image.Image, orientation: int = 1) -> np.ndarray:
    pixels = _to_rgb(image)
    if orientation in _TURNS:
        pixels = pixels.transpose(_TURNS[orientation])
    return np.array(pixels)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__  # a MemoryError has no text


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (as stored) when there is none."""
    try:
        # The method of the base class: that of PNG files decodes all pixels in search of a late EXIF block.
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # broken metadata of a whole image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, also in its 32-bit container; Pillow would cut it off at 255
        values = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        image = Image.fromarray(values.astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; store it with 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
