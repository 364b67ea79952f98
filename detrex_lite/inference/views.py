"""Predictors that run another predictor on several views of an image: tiles, mirrored or scaled images.

They wrap any predictor, of a model in torch or of an exported file, and have the same interface. They do not need
torch.
"""

import math
import numbers
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..results import ImageInfo
from .base import ImagePredictor, Result
from .merging import ViewDetections, check_fusion, merge_views
from .thresholds import ScoreThreshold

OF_VIEWS = 0.5
"""Fraction of the score threshold that is used in views, because two parts of an object may have different scores."""


class _ViewPredictor(ImagePredictor[Result]):
    """Base class: runs another predictor on several views of an image, and merges the detections.

    Args:
        predictor: finds objects in a view.
        fusion, iou_threshold: see `detrex_lite.inference.merging`.
        score_threshold: threshold of the merged objects; None takes that of `predictor`.
    """

    def __init__(
        self,
        predictor: ImagePredictor[Result],
        *,
        fusion: str,
        iou_threshold: float,
        score_threshold: ScoreThreshold | None,
    ):
        check_fusion(fusion, iou_threshold)
        super().__init__(
            score_threshold=predictor.score_threshold if score_threshold is None else score_threshold,
            batch_size=1,
            image_format=predictor.image_format,
        )
        self.predictor = predictor
        self.fusion = fusion
        self.iou_threshold = iou_threshold
        self.naming_errors = predictor.naming_errors
        self.set_classes(predictor.class_names, predictor.category_ids)

    @abstractmethod
    def look(
        self, pixels: Any, size: tuple[int, int], thresholds: np.ndarray
    ) -> Iterator[tuple[ViewDetections, ImageInfo]]:
        """Yield the detections in each view of an image. Abstract; subclasses override it.

        Args:
            pixels: pixels of the image.
            size: (height, width) of the image.
            thresholds: (K,) thresholds of the classes in views.
        """

    @property
    def border(self) -> float:
        """Sides of a box within this many pixels of the border of the view count as cut off."""
        return 0.0

    def read(self, image: Any) -> tuple[Any, tuple[int, int]]:
        """See `ImagePredictor.read`."""
        return self.predictor.read(image)

    def resize(self, pixels: Any, scale: float = 1.0) -> Any:
        """Return the pixels unchanged, because views are resized separately."""
        return pixels

    def crop(self, pixels: Any, frame: tuple[int, int, int, int]) -> Any:
        """See `ImagePredictor.crop`."""
        return self.predictor.crop(pixels, frame)

    def mirror(self, pixels: Any) -> Any:
        """See `ImagePredictor.mirror`."""
        return self.predictor.mirror(pixels)

    def make_result(self, size: tuple[int, int], arrays: dict[str, np.ndarray]) -> Result:
        """See `ImagePredictor.make_result`."""
        return self.predictor.make_result(size, arrays)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `ImagePredictor.is_out_of_memory`."""
        return self.predictor.is_out_of_memory(error)

    def detect(self, batch: Sequence[dict[str, Any]], thresholds: np.ndarray | None = None) -> list[Result]:
        """See `ImagePredictor.detect`."""
        limits = self.thresholds() if thresholds is None else thresholds
        results = []
        for inputs in batch:
            size = (inputs["height"], inputs["width"])
            views, infos = zip(*self.look(inputs["image"], size, limits * OF_VIEWS), strict=True)
            merged = merge_views(
                views,
                size,
                fusion=self.fusion,
                iou_threshold=self.iou_threshold,
                border=self.border,
                thresholds=limits,
            )
            arrays = {"boxes": merged.boxes, "scores": merged.scores, "classes": merged.classes}
            if merged.masks is not None:
                arrays["masks"] = merged.masks
            result = self.make_result(size, arrays)
            results.append(result.described(**self._info(infos, merged.scores, merged.classes)._asdict()))
        return results

    def _info(self, infos: Sequence[ImageInfo], scores: np.ndarray, classes: np.ndarray) -> ImageInfo:
        """Return the information about an image; the highest score is that of the result, or else of the views."""
        if len(scores):
            return self.image_info(scores, classes)
        scored = [info for info in infos if info.highest_score is not None]
        if not scored:
            return self.image_info(scores, classes)
        return max(scored, key=lambda info: info.highest_score or 0.0)

    def in_views(
        self, images: Sequence[Any], sizes: Sequence[tuple[int, int]], thresholds: np.ndarray
    ) -> Iterator[Any]:
        """Run the predictor on views, in batches of its `batch_size`.

        Args:
            images: views as returned by `predictor.resize`.
            sizes: (height, width) of the frame of the returned boxes, for each view.
            thresholds: (K,) thresholds of the classes.
        """
        inputs = [
            {"image": image, "height": size[0], "width": size[1]} for image, size in zip(images, sizes, strict=True)
        ]
        step = self.predictor.batch_size
        for first in range(0, len(inputs), step):
            yield from self.predictor.detect(inputs[first : first + step], thresholds)


class TiledPredictor(_ViewPredictor[Result]):
    """Finds small objects in large images by running the model on overlapping tiles and on the whole image.

        predictor = TiledPredictor(Predictor("output/"), tile=640, overlap=0.2)
        predictor("aerial.jpg")

    Parts of objects that are cut off by tiles are joined, see `detrex_lite.inference.merging`. An object that is not
    larger than the overlap is complete in some tile; larger objects are found in the whole image, or joined from parts.

    Args:
        predictor: finds objects in a tile; tiles are run in batches of its `batch_size`.
        tile: side of the tiles in pixels of the image, or (height, width).
        overlap: the smallest fraction of a tile that the next tile also shows, 0..0.9.
        whole_image: also run on the whole image, for objects that are larger than a tile.
        fusion: "nms" or "weighted".
        iou_threshold: IoU of two boxes, in the area that both tiles show, from which they are the same object.
        score_threshold: as for other predictors; None takes that of `predictor`.

    Raises:
        ValueError: for arguments outside their range.
    """

    def __init__(
        self,
        predictor: ImagePredictor[Result],
        *,
        tile: int | tuple[int, int] = 640,
        overlap: float = 0.2,
        whole_image: bool = True,
        fusion: str = "nms",
        iou_threshold: float = 0.5,
        score_threshold: ScoreThreshold | None = None,
    ):
        sides = (tile, tile) if isinstance(tile, numbers.Integral) else tile
        if isinstance(tile, bool) or not isinstance(sides, list | tuple) or len(sides) != 2:
            raise ValueError(f"tile must be the side of tiles in pixels, or (height, width), got {tile!r}")
        if not all(isinstance(side, numbers.Integral) and side >= 32 for side in sides):
            raise ValueError(f"tile must be whole numbers of at least 32 pixels, got {tile!r}")
        if isinstance(overlap, bool) or not isinstance(overlap, numbers.Real) or not 0 <= overlap <= 0.9:
            raise ValueError(f"overlap must be in 0..0.9, got {overlap!r}")
        if isinstance(predictor, TiledPredictor):
            raise ValueError("the predictor of a TiledPredictor already cuts images into tiles")
        super().__init__(predictor, fusion=fusion, iou_threshold=iou_threshold, score_threshold=score_threshold)
        self.tile: tuple[int, int] = (int(sides[0]), int(sides[1]))
        self.overlap: float = float(overlap)
        self.whole_image: bool = whole_image

    @property
    def border(self) -> float:
        """See `_ViewPredictor.border`: a hundredth of a tile, and at least two pixels."""
        return max(2.0, max(self.tile) / 100)

    def look(
        self, pixels: Any, size: tuple[int, int], thresholds: np.ndarray
    ) -> Iterator[tuple[ViewDetections, ImageInfo]]:
        """See `_ViewPredictor.look`."""
        frames = tile_frames(size, self.tile, self.overlap)
        whole = (0, 0, size[1], size[0])
        if self.whole_image and whole not in frames:
            frames.append(whole)
        # Tiles are resized one batch at a time, because all of them may need much more memory than the image.
        step = self.predictor.batch_size
        for first in range(0, len(frames), step):
            chosen = frames[first : first + step]
            images = [self.predictor.resize(self.crop(pixels, frame)) for frame in chosen]
            sizes = [(y1 - y0, x1 - x0) for x0, y0, x1, y1 in chosen]
            for frame, result in zip(chosen, self.in_views(images, sizes, thresholds), strict=True):
                arrays = result.to_numpy()
                boxes = arrays["boxes"] + np.array([*frame[:2], *frame[:2]], np.float32)
                detections = ViewDetections(frame, boxes, arrays["scores"], arrays["classes"], arrays.get("masks"))
                yield detections, result.info


class AugmentedPredictor(_ViewPredictor[Result]):
    """Test-time augmentation: merges the detections in mirrored and scaled copies of the image.

        predictor = AugmentedPredictor(Predictor("output/"), flip=True, scales=(0.8, 1.0, 1.2))

    With the fusion "weighted", the box of an object is the mean of its boxes in the views, weighted by scores, and its
    score is the mean over all views, where views that miss the object count as 0. With "nms", the view with the highest
    score is used. See `detrex_lite.inference.merging`. To use tiles as well, pass it to a `TiledPredictor`.

    Args:
        predictor: finds objects in a view; views of the same size are run in batches of its `batch_size`.
        flip: also run on the horizontally flipped image, at each scale.
        scales: factors of the size that the predictor resizes images to.
        fusion: "nms" or "weighted".
        iou_threshold: IoU from which two boxes are the same object.
        score_threshold: as for other predictors; None takes that of `predictor`.

    Raises:
        ValueError: for arguments outside their range, and for scales with an exported file of a fixed image size.
    """

    def __init__(
        self,
        predictor: ImagePredictor[Result],
        *,
        flip: bool = True,
        scales: Sequence[float] = (1.0,),
        fusion: str = "weighted",
        iou_threshold: float = 0.5,
        score_threshold: ScoreThreshold | None = None,
    ):
        if isinstance(predictor, _ViewPredictor):
            raise ValueError("to augment tiles, pass the AugmentedPredictor to the TiledPredictor")
        scales = tuple(scales)
        if not scales or not all(
            isinstance(scale, numbers.Real) and not isinstance(scale, bool) and 0.1 <= scale <= 10 for scale in scales
        ):
            raise ValueError(f"scales must be one or more factors in 0.1..10, got {scales!r}")
        if len(set(scales)) < len(scales):
            raise ValueError(f"scales has a factor twice: {scales!r}")
        if any(scale != 1 for scale in scales):
            predictor.require_any_size()
        super().__init__(predictor, fusion=fusion, iou_threshold=iou_threshold, score_threshold=score_threshold)
        self.flip = flip
        self.scales = tuple(float(scale) for scale in scales)

    def look(
        self, pixels: Any, size: tuple[int, int], thresholds: np.ndarray
    ) -> Iterator[tuple[ViewDetections, ImageInfo]]:
        """See `_ViewPredictor.look`."""
        mirrored = [False, True] if self.flip else [False]
        for scale in self.scales:
            images = [
                self.predictor.resize(self.mirror(pixels) if is_mirrored else pixels, scale) for is_mirrored in mirrored
            ]
            results = self.in_views(images, [size] * len(images), thresholds)
            for is_mirrored, result in zip(mirrored, results, strict=True):
                arrays = result.to_numpy()
                boxes, masks = arrays["boxes"], arrays.get("masks")
                if is_mirrored:
                    boxes = np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
                    masks = None if masks is None else masks[:, :, ::-1]
                frame = (0, 0, size[1], size[0])
                yield ViewDetections(frame, boxes, arrays["scores"], arrays["classes"], masks), result.info


def tile_frames(size: tuple[int, int], tile: tuple[int, int], overlap: float) -> list[tuple[int, int, int, int]]:
    """Return the tiles of an image: the smallest number with the overlap, evenly spaced, row by row.

    Args:
        size: (height, width) of the image in pixels.
        tile: (height, width) of the tiles; smaller images are one tile.
        overlap: the smallest fraction of a tile that the next tile also shows.

    Returns:
        x0, y0, x1, y1 of each tile, in whole pixels.
    """
    rows, columns = (_starts(length, side, overlap) for length, side in zip(size, tile, strict=True))
    height, width = (min(length, side) for length, side in zip(size, tile, strict=True))
    return [(x, y, x + width, y + height) for y in rows for x in columns]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    step = max(1, math.floor(side * (1 - overlap)))
    number = math.ceil((length - side) / step) + 1
    return [round(index * (length - side) / (number - 1)) for index in range(number)]


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return the (height, width) of a resized image at another scale.

    Sizes that are multiples of 64 or 32, as for models of a fixed image size, remain multiples.

    Args:
        size: (height, width) in pixels at scale 1.
        scale: factor.
    """
    step = next(step for step in (64, 32, 1) if all(side % step == 0 for side in size))
    height, width = (max(step, round(side * scale / step) * step) for side in size)
    return height, width
