"""Reads image files that Pillow supports, as RGB, rotated by their EXIF orientation."""

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
        DatasetError: when the file is missing or is not a complete image.
    """
    try:
        return _as_tensor(read_photograph(path))
    except PhotographError as error:
        raise DatasetError(str(error)) from error
    except RuntimeError as error:  # e.g. torch cannot allocate the memory
        raise DatasetError(f"image {path} cannot be read: {error}") from error


def decode_image(image: Image.Image) -> Tensor:
    """Convert a PIL image to a tensor, like `read_image`, but without rotating it by its EXIF orientation.

    Returns:
        (3, H, W) uint8, RGB.

    Raises:
        DatasetError: when the image cannot be decoded.
    """
    try:
        return _as_tensor(decode_photograph(image))
    except PhotographError as error:
        raise DatasetError(str(error)) from error


def _as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) in pixels of the image that `read_image` would return; reads the header only.

    Raises:
        DatasetError: when the file is missing or is not an image.
    """
    try:
        return read_photograph_size(path)
    except PhotographError as error:
        raise DatasetError(str(error)) from error


def list_images(paths: str | Path | Sequence[str | Path]) -> list[str]:
    """List the image files of paths, folders and patterns; see `detrex_lite.photographs.list_photographs`.

    Raises:
        DatasetError: when a path does not exist or is a URL, or a folder or pattern has no image.
    """
    try:
        return list_photographs(paths)
    except PhotographError as error:
        raise DatasetError(str(error)) from error
