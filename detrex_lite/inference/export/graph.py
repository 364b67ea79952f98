"""A detector as a function of tensors, for export.

Legend: B batch, Q queries, K classes, D detections.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import convert_to_deploy
from ...modeling import FINAL, Detector
from ...modeling.deformable import record_selected_tokens
from ...ops.cpu import restore
from ...structures import ImageBatch


class DetectionGraph(nn.Module):
    """Maps images to detections, or to logits and boxes, by the detector's `predict` and postprocessor.

    Args:
        detector: in eval mode.
        preprocess: whether images are bytes, which the graph normalises.
        postprocess: whether to return detections; otherwise logits (B, Q, K) and boxes (B, Q, 4) cxcywh in 0..1.
    """

    def __init__(self, detector: Detector, *, preprocess: bool, postprocess: bool):
        super().__init__()
        self.detector = detector
        self.preprocess = preprocess
        self.postprocess = postprocess

    def forward(
        self, images: Tensor, image_sizes: Tensor | None = None, frame_sizes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Detect objects in a batch.

        Args:
            images: (B, 3, H, W) RGB in 0..255, or normalised.
            image_sizes: (B, 2), height and width of each image without padding; the batch is then treated
                `as_published`. None when images have no padding.
            frame_sizes: (B, 2), height and width in pixels of the frame of the returned boxes; needs `postprocess`.

        Returns:
            Scores (B, D), labels (B, D), boxes (B, D, 4) absolute xyxy, and the number of detections, (B,), which come
            first. Or logits and boxes. Detectors that select tokens as queries also return their indices, (B, Q).
        """
        normalise = self.detector.preprocess.normalise
        pixels = normalise(images) if self.preprocess else images.to(self.detector.preprocess.pixel_mean.dtype)
        batch = ImageBatch.in_graph(pixels, image_sizes)
        if batch.mask is not None:  # padding is zero after normalisation
            batch.tensor = pixels.masked_fill(batch.mask[:, None], 0)
        with record_selected_tokens() as selected:
            predictions = self.detector.predict(batch)[FINAL]
        if not self.postprocess:
            predictions = predictions.at_least_float32()
            return predictions.logits, predictions.boxes, *selected
        assert frame_sizes is not None
        selection = self.detector.postprocessor.select(predictions)  # type: ignore[attr-defined]
        order, num = _found_first(selection.found)
        scale = frame_sizes.flip(1).repeat(1, 2).to(selection.boxes.dtype)  # (B, 4): width, height, width, height
        boxes = selection.boxes.gather(1, order[..., None].expand(-1, -1, 4)) * scale[:, None]
        return selection.scores.gather(1, order), selection.classes.gather(1, order), boxes, num, *selected


def _found_first(is_detection: Tensor) -> tuple[Tensor, Tensor]:
    """Return an order (B, D) that puts detections first and keeps their order, and the number of detections, (B,)."""
    number = torch.arange(is_detection.shape[1], device=is_detection.device)
    # All keys are different, since topk does not define the order of equal ones.
    key = torch.where(is_detection, 2 * is_detection.shape[1] - number, is_detection.shape[1] - number)
    return key.topk(is_detection.shape[1], dim=1).indices, is_detection.sum(1)


def deployed(detector: Detector, dtype: torch.dtype) -> Detector:
    """Copy a detector in the form for export: on the CPU, fused (`convert_to_deploy`), in the given precision."""
    return convert_to_deploy(restore(copy.deepcopy(detector)).cpu().requires_grad_(False)).to(dtype)


def trace(graph: DetectionGraph, example: dict[str, Tensor], *, dynamic_batch: bool, dynamic_size: bool) -> Any:
    """Trace the graph by torch.export.

    Args:
        graph: graph of the detector.
        example: inputs by name. With a dynamic batch or size, it needs several images, which are not square.
        dynamic_batch: whether the number of images is arbitrary.
        dynamic_size: whether the size of images is arbitrary.
    """
    dynamic = torch.export.Dim.DYNAMIC
    batch = {0: dynamic} if dynamic_batch else {}
    shapes = {name: dict(batch) for name in example}
    if dynamic_size:
        shapes["images"] |= {2: dynamic, 3: dynamic}
    return torch.export.export(graph, (), kwargs=example, dynamic_shapes=shapes, strict=False)
