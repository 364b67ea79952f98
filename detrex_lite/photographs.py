"""Finds, measures and decodes photographs without torch: any file that Pillow can open, as RGB in its displayed
orientation."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".gif",
    ".ppm",
    ".pgm",
    ".jfif",
)

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
    """The size to which an image is resized, by the rule of DETR's published code.

    The short edge becomes `short_edge`, or less when the long edge would exceed `max_size`. That shorter length is
    rounded, and the long edge is then truncated to whole pixels. (detectron2 rounds both edges and torchvision
    truncates both. At some sizes they differ by a pixel from this rule, with which the published weights were
    evaluated.)

    Args:
        height, width: of the image in pixels.
        short_edge: the target length of the short edge.
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
    """An image file is missing or cannot be decoded completely."""


def read_photograph(path: str | Path) -> np.ndarray:
    """Decode an image file.

    The EXIF orientation is applied. Grey, palette, CMYK and 16-bit images become 8-bit RGB, transparency is
    dropped, and only the first frame of an animation is read.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        PhotographError: when the file is missing or cannot be decoded completely; the message names it.
    """
    try:
        with Image.open(os.path.expanduser(path)) as image:
            return _decoded(image, _orientation(image))
    except FileNotFoundError:
        raise not_there(path) from None
    except Exception as error:  # Pillow's decoders raise a dozen types of errors; large images may exhaust the memory
        raise PhotographError(f"image {path} cannot be read: {_reason(error)}") from error


def decode_photograph(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image to an array as `read_photograph` does, but without applying the EXIF orientation.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        PhotographError: when the image cannot be decoded.
    """
    try:
        return _decoded(image)
    except Exception as error:  # as above
        raise PhotographError(f"the PIL image cannot be read: {_reason(error)}") from error


def read_photograph_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels of the image as `read_photograph` would return it; only the header is read.

    Raises:
        PhotographError: when the file is missing or is not an image.
    """
    try:
        with Image.open(os.path.expanduser(path)) as image:
            width, height = image.size
            transposed = _orientation(image) >= 5
    except FileNotFoundError:
        raise not_there(path) from None
    except Exception as error:  # as above
        raise PhotographError(f"image {path} cannot be read: {_reason(error)}") from error
    return (width, height) if transposed else (height, width)


def not_there(path: str | Path) -> PhotographError:
    """The error for a path at which there is no file."""
    if "://" in str(path):
        return PhotographError(f"{path} is an address, and images are read from files: download it and give its path")
    return PhotographError(f"image {path} does not exist")


def _decoded(image: Image.Image, orientation: int = 1) -> np.ndarray:
    pixels = _to_rgb(image)
    if orientation in _TURNS:
        pixels = pixels.transpose(_TURNS[orientation])
    return np.array(pixels)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__  # a MemoryError has no message


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (as stored) when there is none."""
    try:
        # This is the method of the base class, because that of PNG files decodes all pixels to find a late EXIF block.
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # broken metadata of an intact image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, possibly in a 32-bit container; Pillow would clip it at 255
        values = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        image = Image.fromarray(values.astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; store it with 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def list_photographs(paths: str | Path | Sequence[str | Path]) -> list[str]:
    """List the image files of paths, folders and patterns.

    Args:
        paths: a file, a folder (its image files, sorted), a glob pattern (`**` for any depth; links to folders are
            followed unless they lead back to one of their parents), or a list of these.

    Raises:
        PhotographError: when a path does not exist or is an address, or a folder or pattern holds no image.
    """
    photographs: list[str] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        if "://" in str(path):  # Path would drop one of the slashes
            raise not_there(path)
        text = str(Path(os.path.expanduser(path)))
        if os.path.isdir(text):
            names = sorted(name for name in os.listdir(text) if name.lower().endswith(IMAGE_EXTENSIONS))
            if not names:
                raise PhotographError(f"folder {text} holds no image ({', '.join(IMAGE_EXTENSIONS)})")
            photographs += [os.path.join(text, name) for name in names]
        elif os.path.exists(text):
            photographs.append(text)
        elif glob.has_magic(text):
            matches = sorted(match for match in _matches(text) if os.path.isfile(match))
            if not matches:
                raise PhotographError(f"no file matches {text}")
            photographs += matches
        else:
            raise PhotographError(f"{text} does not exist")
    if not photographs:
        raise PhotographError("there is no image: the list of paths is empty")
    return photographs


def _matches(pattern: str) -> set[str]:
    """The results of `glob.glob(pattern, recursive=True)`, without paths that go through a cycle of links.

    glob itself follows every link at every depth: two links to their own folder produce 2**40 paths.
    """
    parts = pattern.split(os.sep)
    if "**" not in parts:
        return set(glob.glob(pattern))
    position = parts.index("**")
    rest = os.sep.join(parts[position + 1 :]) or "*"
    start = os.sep.join([*parts[:position], ""])  # ends in a separator: only folders match
    matches: set[str] = set()
    for folder in glob.glob(start) if start else [""]:
        for subfolder in _folders(folder):
            matches |= _matches(os.path.join(glob.escape(subfolder), rest))
    return matches


def _folders(folder: str, parents: frozenset[str] = frozenset()) -> Iterator[str]:
    """`folder` and all folders below it that are not hidden."""
    real = os.path.realpath(folder)
    if real in parents:
        return
    yield folder
    try:
        with os.scandir(folder or ".") as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:  # no permission to list the folder
        return
    for name in names:
        yield from _folders(os.path.join(folder, name), parents | {real})
