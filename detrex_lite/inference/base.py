"""Base class of predictors: reads images of any kind and number, and runs them in batches. Does not need torch."""

import glob
import logging
import math
import numbers
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ..photographs import PhotographError, list_photographs
from ..results import ImageInfo
from .thresholds import ScoreThreshold, check_thresholds, class_thresholds, describe_thresholds, threshold_below

logger = logging.getLogger(__name__)

Result = TypeVar("Result", bound=Any)

MUCH_SMALLER = 5.0
"""A warning is logged for images that are downscaled by at least this factor."""

LEAST_PIXELS = 8
"""The approximate side of the smallest objects that detectors find: a cell of the finest feature map."""


class ImagePredictor(ABC, Generic[Result]):
    """Finds objects in images, a batch at a time.

    Args:
        score_threshold: detections with lower scores are left out, 0..1: a number for all classes, a dict of class
            name -> number (0.5 for the others), or a number for each class. Calls may override it.
        batch_size: number of images in a batch.
        image_format: "RGB" or "BGR", the order of the channels of arrays and tensors.

    Attributes:
        class_names: K names.
        category_ids: K category ids of the classes in the data set; empty when they are unknown.

    Raises:
        ValueError: for arguments of another type or outside their range.
    """

    # Errors whose message already names the image.
    naming_errors: tuple[type[ValueError], ...] = (PhotographError,)

    def __init__(self, *, score_threshold: ScoreThreshold, batch_size: int, image_format: str):
        check_thresholds(score_threshold)
        if not _is_a(numbers.Integral, batch_size) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
        self.score_threshold = score_threshold
        self.batch_size = batch_size
        self.image_format = image_format
        self.class_names: tuple[str, ...] = ()
        self.category_ids: tuple[int, ...] = ()
        self._has_found_something = False
        self._has_warned_of_size = False

    def set_classes(self, class_names: Sequence[str], category_ids: Sequence[int] = ()) -> None:
        """Set the classes of the model. Constructors call this when the model is available.

        Raises:
            ValueError: when `score_threshold` names a class that the model does not have.
        """
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        class_thresholds(self.score_threshold, self.class_names)

    def thresholds(self, score_threshold: ScoreThreshold | None = None) -> np.ndarray:
        """Return the threshold of each class, (K,) float64.

        Args:
            score_threshold: the argument of a call; None takes the predictor's thresholds. With a dict, classes without
                a value keep the predictor's threshold.

        Raises:
            ValueError: for classes that the model does not have, and numbers outside 0..1.
        """
        defaults = class_thresholds(self.score_threshold, self.class_names)
        return (
            defaults
            if score_threshold is None
            else class_thresholds(score_threshold, self.class_names, default=defaults)
        )

    @abstractmethod
    def read(self, image: Any) -> tuple[Any, tuple[int, int]]:
        """Return the pixels of an image, and its (height, width). Raises a ValueError when it cannot be read."""

    @abstractmethod
    def resize(self, pixels: Any, scale: float = 1.0) -> Any:
        """Resize pixels to the size that the model takes, multiplied by `scale`."""

    @abstractmethod
    def crop(self, pixels: Any, frame: tuple[int, int, int, int]) -> Any:
        """Return the pixels inside x0, y0, x1, y1."""

    @abstractmethod
    def mirror(self, pixels: Any) -> Any:
        """Return the pixels flipped horizontally."""

    @abstractmethod
    def make_result(self, size: tuple[int, int], arrays: dict[str, np.ndarray]) -> Result:
        """Make the result of an image.

        Args:
            size: (height, width) of the image in pixels.
            arrays: `boxes`, `scores`, `classes` and perhaps `masks`, see `DetectionResult.to_numpy`.
        """

    def require_any_size(self) -> None:
        """Raise a ValueError if the model takes images of only one size."""

    @abstractmethod
    def detect(self, batch: Sequence[dict[str, Any]], thresholds: np.ndarray | None = None) -> list[Result]:
        """Detect the objects in images.

        Args:
            batch: for each image, `image` as returned by `resize`, and `height` and `width` as returned by `read`.
            thresholds: (K,) thresholds of the classes; None for those of the predictor.

        Returns:
            The detections of each image, with `info` as returned by `image_info`.
        """

    def image_info(self, scores: np.ndarray, classes: np.ndarray) -> ImageInfo:
        """Return the information about an image in addition to its objects.

        Args:
            scores, classes: scores and classes of all detections, including those below the threshold.
        """
        info = ImageInfo(class_names=self.class_names, category_ids=self.category_ids)
        if not len(scores):
            return info
        best = int(scores.argmax())
        return info._replace(highest_score=float(scores[best]), highest_class=int(classes[best]))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether an error of `resize` or `detect` means that there is not enough memory."""
        return isinstance(error, MemoryError)

    def __call__(self, images: Any, *, score_threshold: ScoreThreshold | None = None) -> Result | list[Result]:
        """Find objects in one image or in several.

        If no object of the first call passes the threshold, a warning states the highest score.

        Args:
            images: an image; the path of a folder or a pattern such as "photos/*.jpg", for all images in it; or a list
                of these.
            score_threshold: as for the constructor, for this call only. With a dict, the other classes keep the
                predictor's thresholds.

        Returns:
            One result for one image; a list of results for a list, a folder or a pattern. Results of files have their
            path in `info.file_name`.

        Raises:
            ValueError: when an image cannot be read, needs more memory than is available, or has an unsupported type;
                the message names it. Also for a folder without images, and for thresholds of unknown classes or outside
                0..1.
        """
        is_list = isinstance(images, (list, tuple))
        pairs = self.iterate(images if is_list else [images], score_threshold=score_threshold)
        results: list[Result] = [
            _or_raise(result, f"image {position} of the list" if is_list else "the image")
            for position, (_, result) in enumerate(pairs)
        ]
        self._warn_of_nothing(results, self.thresholds(score_threshold))
        return results if is_list or _is_several(images) else results[0]

    def iterate(
        self, images: Iterable[Any] | str | Path, *, score_threshold: ScoreThreshold | None = None
    ) -> Iterator[tuple[Any, Result | ValueError]]:
        """Find objects in any number of images, one batch at a time; continues after images that cannot be read.

        Args:
            images: as for a call; at most one batch is read ahead.
            score_threshold: as for a call.

        Returns:
            Pairs of each image as passed (for folders and patterns each file) and its result, or the ValueError that
            explains why there is no result.

        Raises:
            ValueError: for thresholds of unknown classes or outside 0..1.
        """
        thresholds = self.thresholds(score_threshold)
        return self._iterate(iter([images] if isinstance(images, str | Path) else images), thresholds)

    def _iterate(self, images: Iterator[Any], thresholds: np.ndarray) -> Iterator[tuple[Any, Result | ValueError]]:
        expanded = _expanded(images)
        while batch := list(islice(expanded, self.batch_size)):
            loaded = [error or self._load(image) for image, error in batch]
            results = iter(self._predict([inputs for inputs in loaded if isinstance(inputs, dict)], thresholds))
            for (image, _), inputs in zip(batch, loaded, strict=True):
                result = next(results) if isinstance(inputs, dict) else inputs
                if isinstance(result, ValueError):
                    yield image, self._named(result, image)
                else:
                    yield image, result.described(file_name=str(image)) if isinstance(image, str | Path) else result

    def _warn_of_nothing(self, results: Sequence[Any], thresholds: np.ndarray) -> None:
        """Log a hint if the first results are empty, because the model may find the objects with lower scores."""
        if self._has_found_something or not results:
            return
        self._has_found_something = True  # or the hint is logged, which happens only once
        scored = [result.info for result in results if result.info.highest_score is not None]
        if any(len(result) for result in results) or not scored:
            return
        best = max(scored, key=lambda info: info.highest_score)
        logger.warning(
            "No object reaches %s. The highest score is %.3g (%s): score_threshold=%g would show it.",
            describe_thresholds(thresholds),
            best.highest_score,
            self.class_names[best.highest_class],
            threshold_below(best.highest_score),
        )

    def _load(self, image: Any) -> dict[str, Any] | ValueError:
        """Return the model's input, or the error."""
        try:
            pixels, (height, width) = self.read(image)
        except ValueError as error:
            return error
        try:
            resized = self.resize(pixels)
            self._warn_of_small_images(pixels, resized, (height, width))
            return {"image": resized, "height": height, "width": width}
        except (MemoryError, RuntimeError) as error:
            if not self.is_out_of_memory(error):
                raise
            return _TooLargeError(height, width)

    def _warn_of_small_images(self, pixels: Any, resized: Any, size: tuple[int, int]) -> None:
        """Log a hint, once, for large images, whose small objects are lost when the image is downscaled."""
        factor = (math.prod(pixels.shape) / math.prod(resized.shape)) ** 0.5
        if factor < MUCH_SMALLER or self._has_warned_of_size:
            return
        self._has_warned_of_size = True
        logger.warning(
            "An image of %dx%d pixels (height x width) is downscaled by a factor of %.0f for the model: objects of "
            "less than %.0f pixels are lost. TiledPredictor (predict --tile 640) splits it into tiles.",
            *size,
            factor,
            LEAST_PIXELS * factor,
        )

    def _predict(self, batch: list[dict[str, Any]], thresholds: np.ndarray) -> list[Result | ValueError]:
        """Detect the objects of a batch; images are run one by one if there is not enough memory for all."""
        if not batch:
            return []
        try:
            return [*self.detect(batch, thresholds)]
        except (MemoryError, RuntimeError) as error:
            if not self.is_out_of_memory(error):
                raise
        # Outside of the except clause, the error and the tensors that its traceback referenced are freed.
        if len(batch) == 1:
            return [_TooLargeError(batch[0]["height"], batch[0]["width"])]
        return [self._predict([inputs], thresholds)[0] for inputs in batch]

    def _named(self, error: ValueError, image: Any) -> ValueError:
        """Return the error with the path of its image in the message."""
        if isinstance(image, str | Path) and not isinstance(error, self.naming_errors):
            return ValueError(f"{image}: {error}")
        return error


def _is_several(image: Any) -> bool:
    """Return whether a path stands for many images: a folder, or a pattern that is not the name of a file."""
    if not isinstance(image, str | Path) or "://" in str(image):
        return False
    path = os.path.expanduser(image)
    return os.path.isdir(path) or (glob.has_magic(str(path)) and not os.path.exists(path))


def _expanded(images: Iterable[Any]) -> Iterator[tuple[Any, ValueError | None]]:
    """Yield each image, with folders and patterns replaced by their files; with an error if they have no images."""
    for image in images:
        if not _is_several(image):
            yield image, None
            continue
        try:
            files = list_photographs(image)
        except PhotographError as error:
            yield image, error
        else:
            yield from ((file, None) for file in files)


class _TooLargeError(ValueError):
    def __init__(self, height: int, width: int):
        super().__init__(f"an image of {height}x{width} (height x width) pixels needs more memory than is available")


def check_pixels(image: Any, *, channels: int, expected: str) -> None:
    """Raise a ValueError unless an array or a tensor has the shape and the dtype of an image."""
    shape = tuple(image.shape)
    if len(shape) != 3 or shape[channels] != 3 or 0 in shape or str(image.dtype).split(".")[-1] != "uint8":
        raise ValueError(f"an image must be {expected}, got shape {shape} of {image.dtype}")


def check_array(image: np.ndarray) -> None:
    """Raise a ValueError unless an array is an image."""
    check_pixels(image, channels=-1, expected="an (H, W, 3) uint8 array")


def _is_a(kind: type, value: Any) -> bool:
    """Return whether a value is a number of a type; booleans do not count."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _or_raise(result: Result | ValueError, where: str) -> Result:
    if isinstance(result, ValueError):
        raise ValueError(f"{where}: {result}") from result
    return result
