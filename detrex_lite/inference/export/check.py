"""Comparison of an exported file with its detector in torch."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...modeling import FINAL, Detector
from ...modeling.deformable import highest, select_tokens_by
from ...structures import ImageBatch, Instances
from ..description import Description
from ..exported import Detections, batch_inputs, detections_of, run_images
from ..runtimes import Session

# Padded batches contain images of these fractions of the height and width.
PADDED = ((1.0, 1.0), (0.75, 1.0), (1.0, 0.6))
LATENCY_ROUNDS = 5


class Differences(NamedTuple):
    """The largest differences between detections of a batch in torch and by an exported file.

    Attributes:
        batch: number of images.
        height, width: size of the batch in pixels.
        compared: number of compared detections.
        scores: largest difference of scores.
        boxes: largest difference of box coordinates in pixels.
        selected: see `selection_difference`; 0 for detectors that select no tokens.
    """

    batch: int
    height: int
    width: int
    compared: int
    scores: float
    boxes: float
    selected: float


def made_up_image(height: int, width: int, seed: int) -> np.ndarray:
    """Generate an image of clouds and rectangles, so that detections differ; (height, width, 3) uint8."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 8, 3), np.uint8)
    image = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(4):
        y, x = generator.uniform(0, 0.8, 2) * (height, width)
        h, w = generator.uniform(0.1, 0.5, 2) * (height, width)
        image[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1] = generator.integers(0, 256, 3)
    return image


def check_batches(
    sizes: Sequence[tuple[int, int]], batches: Sequence[int], *, padded: bool
) -> Iterator[list[np.ndarray]]:
    """Create batches of images for a check, one for each size and number of images.

    Args:
        sizes: (height, width) of batches in pixels.
        batches: numbers of images per batch.
        padded: whether images may be smaller than their batch.
    """
    seed = 0
    for number, (height, width) in enumerate(sizes):
        for batch in batches:
            images = []
            for index in range(batch):
                share = PADDED[(number + index) % len(PADDED)] if padded else PADDED[0]
                images.append(made_up_image(round(height * share[0]), round(width * share[1]), seed))
                seed += 1
            yield images


def frames_of(images: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Return frames for the boxes of images, each slightly larger than its image."""
    return [(round(image.shape[0] * 1.1), round(image.shape[1] * 1.2)) for image in images]


@torch.no_grad()
def detect_in_torch(
    detector: Detector, images: Sequence[np.ndarray], frames: Sequence[tuple[int, int]], description: Description
) -> list[Instances]:
    """Run the detector on images (h, w, 3); for files that accept padding, in the same padded batch."""
    if not description.padded:
        records = [
            {"image": torch.from_numpy(image).permute(2, 0, 1), "height": height, "width": width}
            for image, (height, width) in zip(images, frames, strict=True)
        ]
        return [output["instances"] for output in detector(records)]
    height, width = batch_inputs(description, images, frames)["images"].shape[-2:]
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    pixels = torch.zeros(len(images), 3, height, width)
    for padded_image, image, (h, w) in zip(pixels, images, sizes, strict=True):
        padded_image[:, :h, :w] = detector.preprocess.normalise(torch.from_numpy(image).permute(2, 0, 1))
    predictions = detector.predict(ImageBatch.of_padded(pixels, sizes, as_published=True))
    return detector.postprocessor(predictions[FINAL], frames)


def compare(
    detector: Detector, session: Session, images: Sequence[np.ndarray], *, tied: float, limits: tuple[float, float]
) -> Differences:
    """Run a batch by an exported file, and in torch with the tokens that the file selected.

    Args:
        detector: on the CPU.
        session: of the exported file.
        images: (h, w, 3) uint8 each; as many as the file accepts, and of one size unless it accepts padding.
        tied, limits: see `compare_detections`.
    """
    description, frames = session.description, frames_of(images)
    inputs = batch_inputs(description, images, frames)
    outputs = session.run(inputs)
    imposed = ImposedSelection(torch.from_numpy(outputs[name]) for name in description.selected_tokens)
    with select_tokens_by(imposed):
        expected = detect_in_torch(detector, images, frames, description)
    detections = detections_of(description, outputs, frames)
    cut_off = description.postprocessor.get("kind") == "top_k"
    pairs = zip(expected, detections, strict=True)
    results = [
        compare_detections(expected_of_image, detections_of_image, tied=tied, limits=limits, cut_off=cut_off)
        for expected_of_image, detections_of_image in pairs
    ]
    height, width = inputs["images"].shape[-2:]
    return Differences(
        len(images),
        height,
        width,
        compared=sum(result[0] for result in results),
        scores=max(result[1] for result in results),
        boxes=max(result[2] for result in results),
        selected=imposed.difference,
    )


class ImposedSelection:
    """A `Selector` that makes a detector select the tokens that an exported file selected.

    Args:
        selected: indices (B, Q) of each selection in order.

    Attributes:
        difference: the largest `selection_difference`. Without such tokens, the detector selects by its own scores.
    """

    def __init__(self, selected: Iterable[Tensor]):
        self._selected = iter(selected)
        self.difference = 0.0

    def __call__(self, scores: Tensor, number: int) -> Tensor:
        indices, best = next(self._selected), highest(scores, number)
        difference = selection_difference(scores, indices, best)
        self.difference = max(self.difference, difference)
        return best if difference == float("inf") else indices


def selection_difference(scores: Tensor, indices: Tensor, best: Tensor) -> float:
    """Compute how far selected tokens are from those with the highest scores.

    When no score differs by more than d between two computations, the sorted scores of one differ by no more than d
    from those of the other, so that the scores of what one selects differ by no more than 2 d, rank by rank, from the
    highest scores of the other, whichever tokens change places.

    Args:
        scores: (B, N), -inf for tokens that may be selected only if there are no others.
        indices: (B, Q), the selected tokens.
        best: (B, Q), the tokens with the highest scores, in descending order.

    Returns:
        The largest difference of scores of the same rank, relative to the largest absolute score, since rounding errors
        grow with it. Infinity for indices of a different shape, invalid or repeated indices, and NaN scores.
    """
    if indices.shape != best.shape or not ((indices >= 0) & (indices < scores.shape[1])).all():
        return float("inf")
    if (indices.sort(dim=1).values.diff(dim=1) == 0).any() or scores.isnan().any():
        return float("inf")
    best_scores, selected_scores = scores.gather(1, best), scores.gather(1, indices)
    differences = (best_scores - selected_scores)[
        best_scores != selected_scores
    ].abs()  # without those of -inf and -inf
    if not len(differences):
        return 0.0
    return float(differences.max() / scores[scores.isfinite()].abs().max())


def compare_detections(
    expected: Instances, detections: Instances | Detections, *, tied: float, limits: tuple[float, float], cut_off: bool
) -> tuple[int, float, float]:
    """Count the compared detections of an image; also returns the largest differences of scores and of boxes in pixels.

    Detections are paired with the nearest ones of the same class, by scores and positions. The difference of an
    unpaired detection is its whole score, or the distance of its score from the last one of a truncated list. Two
    detections with scores close to that last one, but in different positions, are therefore not paired.

    Args:
        expected: all detections of one side.
        detections: all detections of the other side.
        tied: margin above the last score of a truncated list within which detections are not compared, since rounding
            decides which of them are last.
        limits: largest accepted differences of scores, and of boxes in pixels.
        cut_off: whether the lists are truncated, i.e. contain only the best detections.
    """
    expected_arrays, arrays = (_arrays(value) for value in (expected, detections))
    if not all(np.isfinite(value).all() for value in arrays):
        return len(detections), float("inf"), float("inf")
    last = max((side[0].min() for side in (expected_arrays, arrays) if len(side[0])), default=0.0) if cut_off else 0.0
    scores = np.abs(expected_arrays[0][:, None] - arrays[0])
    boxes = np.abs(expected_arrays[2][:, None] - arrays[2]).max(-1)
    class_differs = expected_arrays[1][:, None] != arrays[1]
    rows, columns = linear_sum_assignment(boxes + 1000 * scores + 1e9 * class_differs)
    is_same_class = ~class_differs[rows, columns]
    rows, columns = rows[is_same_class], columns[is_same_class]
    if cut_off:
        at_the_end = np.maximum(expected_arrays[0][rows], arrays[0][columns]) <= last + limits[0]
        is_pair = ~at_the_end | (boxes[rows, columns] <= limits[1])
        rows, columns = rows[is_pair], columns[is_pair]
    counts = (
        (np.minimum(expected_arrays[0][rows], arrays[0][columns]) > last + tied)
        if cut_off
        else np.ones(len(rows), bool)
    )
    rows, columns = rows[counts], columns[counts]
    unpaired = [np.delete(side[0], chosen) - last for side, chosen in ((expected_arrays, rows), (arrays, columns))]
    unmatched = np.concatenate(unpaired)
    unmatched = unmatched[unmatched > tied] if cut_off else unmatched
    return (
        len(rows),
        float(max([0.0, *scores[rows, columns], *unmatched])),
        float(max([0.0, *boxes[rows, columns]])),
    )


def _arrays(detections: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, classes and boxes in float64."""
    values = (detections.scores, detections.pred_classes, detections.pred_boxes.tensor)
    scores, classes, boxes = (np.asarray(value, np.float64) for value in values)
    return scores, classes, boxes


def measure_latency(detector: Callable[..., Any], session: Session, images: Sequence[np.ndarray]) -> dict[str, Any]:
    """Measure the milliseconds from bytes to detections: medians of a few alternating runs."""
    frames = frames_of(images)
    sides: dict[str, Callable[[], Any]] = {
        "eager": lambda: detect_in_torch(detector, images, frames, session.description),  # type: ignore[arg-type]
        "exported": lambda: run_images(session, images, frames),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(LATENCY_ROUNDS):
        for name, run in sides.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    height, width = images[0].shape[:2]
    medians = {name: round(1000 * statistics.median(values), 3) for name, values in seconds.items()}
    return {**medians, "images": len(images), "height": height, "width": width, "threads": torch.get_num_threads()}
