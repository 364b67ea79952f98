"""What predictors share, whatever runs their model: images of any kind and number, in batches. It needs no torch."""

import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ..photographs import PhotographError

Result = TypeVar("Result")


class ImagePredictor(ABC, Generic[Result]):
    """Finds objects in images, a batch at a time.

    Args:
        score_threshold: detections with lower scores are left out, 0..1.
        batch_size: so many images at a time.
        image_format: "RGB" or "BGR", the order of the channels of arrays and tensors.

    Raises:
        ValueError: for arguments of another type or outside their range.
    """

    class_names: tuple[str, ...]
    # Errors that name their image already.
    naming_errors: tuple[type[ValueError], ...] = (PhotographError,)

    def __init__(self, *, score_threshold: float, batch_size: int, image_format: str):
        if not _is_a(numbers.Real, score_threshold) or not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must be in 0..1, got {score_threshold!r}")
        if not _is_a(numbers.Integral, batch_size) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
        self.score_threshold = score_threshold
        self.batch_size = batch_size
        self.image_format = image_format

    @abstractmethod
    def read(self, image: Any) -> tuple[Any, tuple[int, int]]:
        """The pixels of an image, and its (height, width). ValueError when it cannot be read."""

    @abstractmethod
    def resize(self, pixels: Any) -> Any:
        """The pixels as the model takes them."""

    @abstractmethod
    def detect(self, batch: Sequence[dict[str, Any]]) -> list[Result]:
        """What is in images.

        Args:
            batch: for each image `image`, which `resize` gave, and `height` and `width` as `read` gave them.
        """

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error of `resize` or `detect` says that there is not enough memory."""
        return isinstance(error, MemoryError)

    def __call__(self, images: Any) -> Result | list[Result]:
        """Find objects in one image or in a list of them.

        Returns:
            One result for one image; a list of results for a list.

        Raises:
            ValueError: when an image cannot be read, needs more memory than there is, or is of another kind; the
                message names it.
        """
        if isinstance(images, (list, tuple)):
            return [
                _or_raise(result, f"image {position} of the list")
                for position, (_, result) in enumerate(self.iterate(images))
            ]
        [(_, result)] = self.iterate([images])
        return _or_raise(result, "the image")

    def iterate(self, images: Iterable[Any]) -> Iterator[tuple[Any, Result | ValueError]]:
        """Find objects in any number of images, one batch at a time; broken images stop nothing.

        Args:
            images: read no further ahead than one batch.

        Yields:
            Each image as it was given, with its result, or with the ValueError that says why there is none.
        """
        images = iter(images)
        while batch := list(islice(images, self.batch_size)):
            loaded = [self._load(image) for image in batch]
            found = iter(self._predict([inputs for inputs in loaded if isinstance(inputs, dict)]))
            for image, inputs in zip(batch, loaded, strict=True):
                result = next(found) if isinstance(inputs, dict) else inputs
                yield image, self._named(result, image) if isinstance(result, ValueError) else result

    def _load(self, image: Any) -> dict[str, Any] | ValueError:
        """The model's input, or what is wrong."""
        try:
            pixels, (height, width) = self.read(image)
        except ValueError as error:
            return error
        try:
            return {"image": self.resize(pixels), "height": height, "width": width}
        except (MemoryError, RuntimeError) as error:
            if not self.is_out_of_memory(error):
                raise
            return _TooLargeError(height, width)

    def _predict(self, batch: list[dict[str, Any]]) -> list[Result | ValueError]:
        """What is in the images, which go one by one where memory does not hold them together."""
        if not batch:
            return []
        try:
            return [*self.detect(batch)]
        except (MemoryError, RuntimeError) as error:
            if not self.is_out_of_memory(error):
                raise
        # Here the error is gone, and with it the tensors that its traceback held.
        if len(batch) == 1:
            return [_TooLargeError(batch[0]["height"], batch[0]["width"])]
        return [self._predict([inputs])[0] for inputs in batch]

    def _named(self, error: ValueError, image: Any) -> ValueError:
        """The error with the path of its image."""
        if isinstance(image, str | Path) and not isinstance(error, self.naming_errors):
            return ValueError(f"{image}: {error}")
        return error


class _TooLargeError(ValueError):
    def __init__(self, height: int, width: int):
        super().__init__(f"an image of {height}x{width} (height x width) pixels needs more memory than there is")


def check_pixels(image: Any, *, channels: int, expected: str) -> None:
    """ValueError unless an array or a tensor has the shape and the dtype of an image."""
    shape = tuple(image.shape)
    if len(shape) != 3 or shape[channels] != 3 or 0 in shape or str(image.dtype).split(".")[-1] != "uint8":
        raise ValueError(f"an image must be {expected}, got shape {shape} of {image.dtype}")


def check_array(image: np.ndarray) -> None:
    """ValueError unless an array is an image."""
    check_pixels(image, channels=-1, expected="an (H, W, 3) uint8 array")


def _is_a(kind: type, value: Any) -> bool:
    """Whether a value is a number of this kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _or_raise(result: Result | ValueError, where: str) -> Result:
    if isinstance(result, ValueError):
        raise ValueError(f"{where}: {result}") from result
    return result
