"""Detections by exported files. It needs NumPy, Pillow and what runs the file, and no torch."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..photographs import decode_photograph, read_photograph, shortest_edge_size
from ..results import NOTHING_KNOWN, DetectionResult, ImageInfo
from .base import ImagePredictor, check_array
from .description import INSIDE, Description, ExportedFileError
from .runtimes import Session, open_session
from .thresholds import DEFAULT, ScoreThreshold
from .views import scaled_size


@dataclass(frozen=True)
class FoundBoxes:
    """Boxes as detections have them: `tensor`, (D, 4) absolute xyxy in pixels, is an array of NumPy."""

    tensor: np.ndarray

    def __len__(self) -> int:
        return len(self.tensor)


@dataclass(frozen=True)
class Detections(DetectionResult):
    """The objects that were found in an image, with the names of `detrex_lite.structures.Instances`.

    Attributes:
        image_size: (height, width) in pixels of the frame of the boxes.
        pred_boxes: of D objects.
        scores: (D,), 0..1.
        pred_classes: (D,) indices of classes.
        info: what else is known about the image.
    """

    image_size: tuple[int, int]
    pred_boxes: FoundBoxes
    scores: np.ndarray
    pred_classes: np.ndarray
    info: ImageInfo = NOTHING_KNOWN

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, item: Any) -> "Detections":
        """The objects that a slice, a mask or an array of indices selects."""
        boxes = FoundBoxes(self.pred_boxes.tensor[item])
        return replace(self, pred_boxes=boxes, scores=self.scores[item], pred_classes=self.pred_classes[item])

    def described(self, **info: Any) -> "Detections":
        """The same objects with other `ImageInfo`, whose fields are the arguments."""
        return replace(self, info=self.info._replace(**info))

    def to_numpy(self) -> dict[str, np.ndarray]:
        """See `DetectionResult.to_numpy`."""
        return {
            "boxes": self.pred_boxes.tensor.astype(np.float32),
            "scores": self.scores.astype(np.float32),
            "classes": self.pred_classes.astype(np.int64),
        }

    def __str__(self) -> str:
        return self._text()


class ExportedPredictor(ImagePredictor[Detections]):
    """Finds objects by a file that `detrex_lite.export` wrote, as `Predictor` does by a model in torch.

    Images may be paths, PIL images or (H, W, 3) uint8 arrays; **arrays are taken as RGB**, those of OpenCV are BGR: say
    so with `image_format="BGR"`. Files are turned as their EXIF orientation says; PIL images are not turned.

    Images are resized as the file says. Those of one size run together; a file whose number of images is fixed gets the
    last image again where there are fewer. What is found in an image does not depend on the others, but by files
    with an input for padding (`Description.padded`), which run batches as published implementations do.

    Args:
        path: an .onnx, .xml, .pt2 or .torchscript file.
        device: "auto" is the CPU; see the class for the kind of file in `detrex_lite.inference.runtimes`.
        score_threshold: detections with lower scores are left out, 0..1: a number, a dict of class name -> number, or
            a number for each class. A call may say otherwise: `predictor(image, score_threshold=0.1)`.
        batch_size: so many images at a time.
        image_format: "RGB" or "BGR", the order of the channels of arrays.
        threads: of an operator; None for all cores.

    Attributes:
        session: runs the file; `session.description` says what it is.
        class_names: K names.
        category_ids: K ids that the data set has for the classes; empty where they are not known.

    Raises:
        ValueError: for arguments outside their range, or a file that cannot be run here; the message says what is
            missing.
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
                "other scales export it for images of any size (size='dynamic')"
            )

    def resize(self, pixels: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """See `ImagePredictor.resize`: as the file says."""
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
    """The (height, width) that an image is resized to, by `Description.resize`."""
    if resize is None:
        return height, width
    if resize["kind"] == "shortest_edge":
        return shortest_edge_size(height, width, resize["short_edge_length"], resize["max_size"])
    if resize["kind"] == "stretch":
        return resize["height"], resize["width"]
    scale = min(resize["height"] / height, resize["width"] / width)  # "fit": the aspect stays
    return max(1, round(height * scale)), max(1, round(width * scale))


def run_images(session: Session, images: Sequence[np.ndarray], frames: Sequence[tuple[int, int]]) -> list[Detections]:
    """What a file finds in images that have been resized.

    Args:
        session: of the file.
        images: (h, w, 3) uint8 each, RGB.
        frames: (height, width) that boxes are wanted in, of each image.

    Returns:
        All detections of each image, whatever their scores.

    Raises:
        ExportedFileError: when the file does not take images of these sizes.
    """
    description = session.description
    together: dict[Any, list[int]] = {}
    for position, image in enumerate(images):
        _check_size(description, image)
        together.setdefault(None if description.padded else image.shape, []).append(position)
    found: dict[int, Detections] = {}
    for positions in together.values():
        step = description.batch or len(positions)
        for first in range(0, len(positions), step):
            chosen = positions[first : first + step]
            filled = chosen + chosen[-1:] * (step - len(chosen)) if description.batch else chosen
            results = _run_batch(session, [images[index] for index in filled], [frames[index] for index in filled])
            found.update(zip(chosen, results, strict=False))
    return [found[position] for position in range(len(images))]


def _check_size(description: Description, image: np.ndarray) -> None:
    wanted, given = (description.height, description.width), image.shape[:2]
    sides = [(own, side) for own, side in zip(given, wanted, strict=True) if side is not None]
    if not all(own <= side if description.padded else own == side for own, side in sides):
        what = "at most" if description.padded else "exactly"
        raise ExportedFileError(
            f"an image of {given[0]}x{given[1]} (height x width) pixels does not fit: the file takes {what} "
            f"{wanted[0] or 'any'}x{wanted[1] or 'any'}"
        )


def _run_batch(session: Session, images: list[np.ndarray], frames: list[tuple[int, int]]) -> list[Detections]:
    return detections_of(session.description, session.run(batch_inputs(session.description, images, frames)), frames)


def detections_of(
    description: Description, outputs: Mapping[str, np.ndarray], frames: Sequence[tuple[int, int]]
) -> list[Detections]:
    """All detections of each image of a run, whatever their scores.

    Args:
        description: of the file.
        outputs: of the run.
        frames: (height, width) that boxes are wanted in, of each image.
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
    """Name -> what a file takes.

    Args:
        description: of the file.
        images: (h, w, 3) uint8 each, RGB; of one size unless the file takes padding.
        frames: (height, width) that boxes are wanted in, of each image.
    """
    inside = description.preprocess == INSIDE
    sizes = [image.shape[:2] for image in images]
    multiple = description.size_divisibility if description.padded else 1
    height, width = (math.ceil(max(sides) / multiple) * multiple for sides in zip(*sizes, strict=True))
    if description.padded:
        height, width = description.height or height, description.width or width
    batch = np.zeros((len(images), 3, height, width), np.uint8 if inside else np.float32)
    mean, std = (np.array(values, np.float32) for values in (description.pixel_mean, description.pixel_std))
    for one, image, (h, w) in zip(batch, images, sizes, strict=True):
        one[:, :h, :w] = (image if inside else (image.astype(np.float32) - mean) / std).transpose(2, 0, 1)
    inputs = {"images": batch}
    if description.padded:
        inputs["image_sizes"] = np.array(sizes, np.int64)
    if description.postprocess == INSIDE:
        inputs["frame_sizes"] = np.array(frames, np.int64)
    return inputs


def select(
    logits: np.ndarray, boxes: np.ndarray, postprocessor: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`detrex_lite.modeling.postprocess.Postprocessor.select` in NumPy, for files that end before it.

    Args:
        logits: (B, Q, K), or (B, Q, K + 1) where the last class is "no object".
        boxes: (B, Q, 4) cxcywh in 0..1.
        postprocessor: `Description.postprocessor`.

    Returns:
        Scores, labels, boxes (xyxy in 0..1) and which of them are detections: (B, D), with 4 coordinates for boxes.

    Raises:
        ExportedFileError: when the description says nothing about it.
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
            "the file ends before its postprocessing, which is of the model's own kind: take `session.run` and make "
            "detections of logits and boxes as the model does"
        )
    corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
    if not postprocessor["clip_boxes"]:
        return scores, labels, corners, np.ones(scores.shape, bool)
    corners = corners.clip(0, 1)
    return scores, labels, corners, np.all(corners[..., 2:] > corners[..., :2], axis=-1)
