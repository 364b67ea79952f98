"""Reading photographs: any file that Pillow opens, as RGB, turned the way that it is shown."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..photographs import (
    IMAGE_EXTENSIONS,
    PhotographError,
    decode_photograph,
    list_photographs,
    read_photograph,
    read_photograph_size,
)
from .faults import DatasetError

__all__ = ["IMAGE_EXTENSIONS", "decode_image", "list_images", "read_image", "read_image_size"]


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
    """The image files that a path stands for; see `detrex_lite.photographs.list_photographs`.

    Raises:
        DatasetError: when a path does not exist or is an address, or a folder or pattern holds no image.
    """
    try:
        return list_photographs(paths)
    except PhotographError as error:
        raise DatasetError(str(error)) from error
