"""Reading photographs: any file that Pillow opens, as RGB, turned the way that it is shown."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..photographs import PhotographError, decode_photograph, not_there, read_photograph, read_photograph_size
from .faults import DatasetError

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


def read_image(path: str | Path) -> Tensor:
    """Decode an image file; see `detrex_lite.photographs.read_photograph`.

    Returns:
        (3, H, W) uint8, RGB.

    Raises:
        DatasetError: when the file is missing or is no whole image.
    """
    try:
        return _as_tensor(read_photograph(path))
    except PhotographError as error:
        raise DatasetError(str(error)) from error
    except RuntimeError as error:  # torch has no memory for it
        raise DatasetError(f"image {path} cannot be read: {error}") from error


def decode_image(image: Image.Image) -> Tensor:
    """The pixels of an image that Pillow holds or has opened, as `read_image` gives them, but not turned.

    Returns:
        (3, H, W) uint8, RGB.

    Raises:
        DatasetError: when it cannot be decoded.
    """
    try:
        return _as_tensor(decode_photograph(image))
    except PhotographError as error:
        raise DatasetError(str(error)) from error


def _as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels of the image as `read_image` would return it; only the header is read.

    Raises:
        DatasetError: when the file is missing or is no image.
    """
    try:
        return read_photograph_size(path)
    except PhotographError as error:
        raise DatasetError(str(error)) from error


def list_images(paths: str | Path | Sequence[str | Path]) -> list[str]:
    """The image files that a path stands for.

    Args:
        paths: a file, a folder (its image files, sorted), a glob pattern (`**` for any depth; links to folders are
            followed unless they lead back to a folder above them), or a list of these.

    Raises:
        DatasetError: when a path does not exist or is an address, or a folder or pattern holds no image.
    """
    found: list[str] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        if "://" in str(path):  # Path would drop one of the slashes
            raise DatasetError(str(not_there(path)))
        text = str(Path(os.path.expanduser(path)))
        if os.path.isdir(text):
            names = sorted(name for name in os.listdir(text) if name.lower().endswith(IMAGE_EXTENSIONS))
            if not names:
                raise DatasetError(f"folder {text} holds no image ({', '.join(IMAGE_EXTENSIONS)})")
            found += [os.path.join(text, name) for name in names]
        elif os.path.exists(text):
            found.append(text)
        elif glob.has_magic(text):
            matches = sorted(match for match in _matches(text) if os.path.isfile(match))
            if not matches:
                raise DatasetError(f"no file matches {text}")
            found += matches
        else:
            raise DatasetError(f"{text} does not exist")
    if not found:
        raise DatasetError("there is no image: the list of paths is empty")
    return found


def _matches(pattern: str) -> set[str]:
    """What `glob.glob(pattern, recursive=True)` gives, but for the paths that go through a loop of links.

    glob itself follows every link at every depth: two links to their own folder are 2**40 paths.
    """
    parts = pattern.split(os.sep)
    if "**" not in parts:
        return set(glob.glob(pattern))
    position = parts.index("**")
    rest = os.sep.join(parts[position + 1 :]) or "*"
    start = os.sep.join([*parts[:position], ""])  # ends in a separator: only folders match
    found: set[str] = set()
    for folder in glob.glob(start) if start else [""]:
        for below in _folders(folder):
            found |= _matches(os.path.join(glob.escape(below), rest))
    return found


def _folders(folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """`folder` and all folders below it that are not hidden."""
    real = os.path.realpath(folder)
    if real in above:
        return
    yield folder
    try:
        with os.scandir(folder or ".") as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:  # not allowed to look into it
        return
    for name in names:
        yield from _folders(os.path.join(folder, name), above | {real})
