"""Predictions of exported files. Needs NumPy, Pillow and the runtime of the file, but not torch."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..photographs import decode_photograph, read_photograph, shortest_edge_size
from ..results import NOTHING_KNOWN, DetectionResult, ImageInfo, foreign_hint
from .base import ImagePredictor, check_array
from .description import INSIDE, Description, ExportedFileError
from .runtimes import Session, open_session
from .thresholds import DEFAULT, ScoreThreshold
from .views import scaled_size


@dataclass(frozen=True)
class FoundBoxes:
    """The boxes of detections. `tensor`, (D, 4) absolute xyxy in pixels, is a NumPy array."""

    tensor: np.ndarray

    def __len__(self) -> int:
        return len(self.tensor)


@dataclass(frozen=True)
class Detections(DetectionResult):
    """The objects detected in an image, with the field names of `detrex_lite.structures.Instances`.

    Attributes:
        image_size: (height, width) in pixels of the frame of the boxes.
        pred_boxes: boxes of D objects.
        scores: (D,), 0..1.
        pred_classes: (D,) indices of classes.
        info: further information about the image.
    """

    image_size: tuple[int, int]
    pred_boxes: FoundBoxes
    scores: np.ndarray
    pred_classes: np.ndarray
    info: ImageInfo = NOTHING_KNOWN

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, item: Any) -> "Detections":
        """Return the objects selected by a slice, a mask or an array of indices."""
        boxes = FoundBoxes(self.pred_boxes.tensor[item])
        return replace(self, pred_boxes=boxes, scores=self.scores[item], pred_classes=self.pred_classes[item])

    def described(self, **info: Any) -> "Detections":
        """Return the same objects with changed fields of `ImageInfo`."""
        return replace(self, info=self.info._replace(**info))

    def to_numpy(self) -> dict[str, np.ndarray]:
        """See `DetectionResult.to_numpy`."""
        return {
            "boxes": self.pred_boxes.tensor.astype(np.float32),
            "scores": self.scores.astype(np.float32),
            "classes": self.pred_classes.astype(np.int64),
        }

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"Detections has no {name!r}{foreign_hint(name)}")

    def __str__(self) -> str:
        return self._text()


class ExportedPredictor(ImagePredictor[Detections]):
    """Finds objects with a file written by `detrex_lite.export`, as `Predictor` does with a model in torch.

    Images may be paths, PIL images or (H, W, 3) uint8 arrays. **Arrays are read as RGB**; for the BGR arrays of OpenCV,
    set `image_format="BGR"`. Files are rotated by their EXIF orientation; PIL images are not rotated.

    Images are resized as described in the file. Images of the same size run together; the batches of a file with a
    fixed batch size are filled with copies of the last image. The detections in an image do not depend on the other
    images of its batch, except for files with an input for padding (`Description.padded`), which run batches as
    published implementations do.

    Args:
        path: an .onnx, .xml, .pt2 or .torchscript file.
        device: "auto" is the CPU; see the sessions in `detrex_lite.inference.runtimes` for the devices of each format.
        score_threshold: detections with lower scores are left out, 0..1: a number, a dict of class name -> number, or
            a number for each class. The default is 0.5. Calls may override it: `predictor(image,
            score_threshold=0.1)`.
        batch_size: number of images in a batch.
        image_format: "RGB" or "BGR", the order of the channels of arrays.
        threads: number of threads of an operator; None for all cores.

    Attributes:
        session: runs the file; `session.description` describes it.
        class_names: K names.
        category_ids: K category ids of the classes in the data set; empty when they are unknown.

    Raises:
        ValueError: for arguments outside their range, or a file that cannot be run on this machine; the message names
            what is missing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        score_threshold: ScoreThreshold = DEFAULT,
        batch_size: int = 1,
        image_format: str = "RGB",
        threads: int | None = None,
    ):
        super().__init__(score_threshold=score_threshold, batch_size=batch_size, image_format=image_format)
        self.session = open_session(path, device=device, threads=threads)
        self.set_classes(self.session.description.class_names, self.session.description.category_ids)

    def read(self, image: Any) -> tuple[np.ndarray, tuple[int, int]]:
        """See `ImagePredictor.read`: pixels are (H, W, 3) uint8, RGB."""
        if isinstance(image, (str, Path)):
            pixels = read_photograph(image)
        elif isinstance(image, Image.Image):
            pixels = decode_photograph(image)
        elif isinstance(image, np.ndarray):
            check_array(image)
            pixels = image[..., ::-1] if self.image_format == "BGR" else image
        else:
            raise ValueError(
                f"cannot read a {type(image).__name__} as an image; give a path, a PIL image or an (H, W, 3) uint8 "
                "array"
            )
        return pixels, (pixels.shape[0], pixels.shape[1])

    def crop(self, pixels: np.ndarray, frame: tuple[int, int, int, int]) -> np.ndarray:
        """See `ImagePredictor.crop`."""
        x0, y0, x1, y1 = frame
        return pixels[y0:y1, x0:x1]

    def mirror(self, pixels: np.ndarray) -> np.ndarray:
        """See `ImagePredictor.mirror`."""
        return pixels[:, ::-1]

    def make_result(self, size: tuple[int, int], arrays: dict[str, np.ndarray]) -> Detections:
        """See `ImagePredictor.make_result`."""
        return Detections(size, FoundBoxes(arrays["boxes"]), arrays["scores"], arrays["classes"])

    def require_any_size(self) -> None:
        """See `ImagePredictor.require_any_size`."""
        description = self.session.description
        if description.height is not None or description.width is not None:
            raise ValueError(
                f"the file takes images of {description.height or 'any'}x{description.width or 'any'} pixels: for "
                "other scales, export it for images of any size (size='dynamic')"
            )

    def resize(self, pixels: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """See `ImagePredictor.resize`: resizes as described in the file."""
        height, width = resized_size(self.session.description.resize, *pixels.shape[:2])
        if scale != 1:
            height, width = scaled_size((height, width), scale)
        if (height, width) == pixels.shape[:2]:
            return pixels
        resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized)

    def detect(self, batch: Sequence[dict[str, Any]], thresholds: np.ndarray | None = None) -> list[Detections]:
        """See `ImagePredictor.detect`."""
        limits = (self.thresholds() if thresholds is None else thresholds).astype(np.float32)
        frames = [(inputs["height"], inputs["width"]) for inputs in batch]
        results = run_images(self.session, [inputs["image"] for inputs in batch], frames)
        return [
            result[result.scores >= limits[result.pred_classes]].described(
                **self.image_info(result.scores, result.pred_classes)._asdict()
            )
            for result in results
        ]


def resized_size(resize: Mapping[str, Any] | None, height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) that an image is resized to, by `Description.resize`."""
    if resize is None:
        return height, width
    if resize["kind"] == "shortest_edge":
        return shortest_edge_size(height, width, resize["short_edge_length"], resize["max_size"])
    if resize["kind"] == "stretch":
        return resize["height"], resize["width"]
    scale = min(resize["height"] / height, resize["width"] / width)  # "fit" keeps the aspect ratio
    return max(1, round(height * scale)), max(1, round(width * scale))


def run_images(session: Session, images: Sequence[np.ndarray], frames: Sequence[tuple[int, int]]) -> list[Detections]:
    """Run a file on images that have been resized.

    Args:
        session: the session of the file.
        images: (h, w, 3) uint8 each, RGB.
        frames: (height, width) of the frame of the returned boxes, for each image.

    Returns:
        All detections of each image, with any score.

    Raises:
        ExportedFileError: when the file does not support images of these sizes.
    """
    description = session.description
    groups: dict[Any, list[int]] = {}
    for position, image in enumerate(images):
        _check_size(description, image)
        groups.setdefault(None if description.padded else image.shape, []).append(position)
    detections: dict[int, Detections] = {}
    for positions in groups.values():
        step = description.batch or len(positions)
        for first in range(0, len(positions), step):
            chosen = positions[first : first + step]
            batch = chosen + chosen[-1:] * (step - len(chosen)) if description.batch else chosen
            results = _run_batch(session, [images[index] for index in batch], [frames[index] for index in batch])
            detections.update(zip(chosen, results, strict=False))
    return [detections[position] for position in range(len(images))]


def _check_size(description: Description, image: np.ndarray) -> None:
    expected, actual = (description.height, description.width), image.shape[:2]
    sides = [(side, limit) for side, limit in zip(actual, expected, strict=True) if limit is not None]
    if not all(side <= limit if description.padded else side == limit for side, limit in sides):
        qualifier = "at most" if description.padded else "exactly"
        raise ExportedFileError(
            f"an image of {actual[0]}x{actual[1]} (height x width) pixels does not fit: the file takes {qualifier} "
            f"{expected[0] or 'any'}x{expected[1] or 'any'}"
        )


def _run_batch(session: Session, images: list[np.ndarray], frames: list[tuple[int, int]]) -> list[Detections]:
    return detections_of(session.description, session.run(batch_inputs(session.description, images, frames)), frames)


def detections_of(
    description: Description, outputs: Mapping[str, np.ndarray], frames: Sequence[tuple[int, int]]
) -> list[Detections]:
    """Return all detections of each image of a run, with any score.

    Args:
        description: the description of the file.
        outputs: the outputs of the run.
        frames: (height, width) of the frame of the returned boxes, for each image.
    """
    if description.postprocess == INSIDE:
        scores, labels, boxes, numbers = (outputs[name] for name in ("scores", "labels", "boxes", "num"))
        masks = np.arange(scores.shape[1]) < numbers[:, None]
    else:
        scores, labels, boxes, masks = select(outputs["logits"], outputs["boxes"], description.postprocessor)
        boxes = boxes * np.array([[width, height, width, height] for height, width in frames], np.float32)[:, None]
    return [
        Detections(frame, FoundBoxes(boxes[index][mask]), scores[index][mask], labels[index][mask])
        for index, (frame, mask) in enumerate(zip(frames, masks, strict=True))
    ]


def batch_inputs(
    description: Description, images: Sequence[np.ndarray], frames: Sequence[tuple[int, int]]
) -> dict[str, np.ndarray]:
    """Return the inputs of a file by name.

    Args:
        description: the description of the file.
        images: (h, w, 3) uint8 each, RGB; all of the same size unless the file supports padding.
        frames: (height, width) of the frame of the returned boxes, for each image.
    """
    inside = description.preprocess == INSIDE
    sizes = [image.shape[:2] for image in images]
    multiple = description.size_divisibility if description.padded else 1
    height, width = (math.ceil(max(sides) / multiple) * multiple for sides in zip(*sizes, strict=True))
    if description.padded:
        height, width = description.height or height, description.width or width
    batch = np.zeros((len(images), 3, height, width), np.uint8 if inside else np.float32)
    mean, std = (np.array(values, np.float32) for values in (description.pixel_mean, description.pixel_std))
    for padded, image, (h, w) in zip(batch, images, sizes, strict=True):
        padded[:, :h, :w] = (image if inside else (image.astype(np.float32) - mean) / std).transpose(2, 0, 1)
    inputs = {"images": batch}
    if description.padded:
        inputs["image_sizes"] = np.array(sizes, np.int64)
    if description.postprocess == INSIDE:
        inputs["frame_sizes"] = np.array(frames, np.int64)
    return inputs


def select(
    logits: np.ndarray, boxes: np.ndarray, postprocessor: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Select detections like `detrex_lite.modeling.postprocess.Postprocessor.select`, in NumPy.

    For files that were exported without postprocessing.

    Args:
        logits: (B, Q, K), or (B, Q, K + 1) where the last class is "no object".
        boxes: (B, Q, 4) cxcywh in 0..1.
        postprocessor: `Description.postprocessor`.

    Returns:
        Scores (B, D), labels (B, D), boxes (B, D, 4) xyxy in 0..1, and a mask (B, D) of the rows that are detections.

    Raises:
        ExportedFileError: when the description does not have the postprocessor.
    """
    kind = postprocessor.get("kind")
    if kind == "softmax":
        raised = np.exp(logits - logits.max(-1, keepdims=True))
        probability = (raised / raised.sum(-1, keepdims=True))[..., :-1]
        scores, labels = probability.max(-1), probability.argmax(-1)
    elif kind == "top_k":
        flat = (1 / (1 + np.exp(-logits))).reshape(len(logits), -1)
        best = np.argsort(-flat, axis=1, kind="stable")[:, : postprocessor["num_detections"]]
        scores, labels = np.take_along_axis(flat, best, 1), best % logits.shape[-1]
        boxes = np.take_along_axis(boxes, (best // logits.shape[-1])[..., None], 1)
    else:
        raise ExportedFileError(
            "the file does not include postprocessing, and the postprocessor of its model is not supported here: call "
            "`session.run` and compute detections from logits and boxes as the model does"
        )
    corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
    if not postprocessor["clip_boxes"]:
        return scores, labels, corners, np.ones(scores.shape, bool)
    corners = corners.clip(0, 1)
    return scores, labels, corners, np.all(corners[..., 2:] > corners[..., :2], axis=-1)
