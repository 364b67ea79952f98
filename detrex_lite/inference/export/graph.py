"""A detector as a function of tensors, which can be exported.

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
    """Images to detections, or to logits and boxes: the detector's own `predict` and postprocessor on tensors.

    Args:
        detector: in eval mode.
        preprocess: take bytes and normalise them.
        postprocess: give detections; otherwise logits (B, Q, K) and boxes (B, Q, 4) cxcywh in 0..1.
    """

    def __init__(self, detector: Detector, *, preprocess: bool, postprocess: bool):
        super().__init__()
        self.detector = detector
        self.preprocess = preprocess
        self.postprocess = postprocess

    def forward(
        self, images: Tensor, image_sizes: Tensor | None = None, frame_sizes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            images: (B, 3, H, W) RGB in 0..255, or normalised.
            image_sizes: (B, 2), height and width of the part of each image that is no padding, with which a batch is
                treated `as_published`; None when images are whole.
            frame_sizes: (B, 2), height and width in pixels of the frame that boxes are wanted in; with `postprocess`.

        Returns:
            Scores (B, D), labels (B, D), boxes (B, D, 4) absolute xyxy, and how many of them are detections, (B,): the
            first ones. Or logits and boxes. After these the indices of the tokens that became queries, (B, Q), of
            detectors that select some.
        """
        normalise = self.detector.preprocess.normalise
        pixels = normalise(images) if self.preprocess else images.to(self.detector.preprocess.pixel_mean.dtype)
        batch = ImageBatch.in_graph(pixels, image_sizes)
        if batch.mask is not None:  # padding is zero after normalising
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


def _found_first(found: Tensor) -> tuple[Tensor, Tensor]:
    """An order (B, D) in which what is found comes first and keeps its order, and how many these are, (B,)."""
    number = torch.arange(found.shape[1], device=found.device)
    # All keys differ: topk promises nothing about the order of equal ones.
    key = torch.where(found, 2 * found.shape[1] - number, found.shape[1] - number)
    return key.topk(found.shape[1], dim=1).indices, found.sum(1)


def deployed(detector: Detector, dtype: torch.dtype) -> Detector:
    """A copy of a detector as it is exported: on the CPU, fused (`convert_to_deploy`), in the given precision."""
    return convert_to_deploy(restore(copy.deepcopy(detector)).cpu().requires_grad_(False)).to(dtype)


def trace(graph: DetectionGraph, example: dict[str, Tensor], *, dynamic_batch: bool, dynamic_size: bool) -> Any:
    """The graph as torch.export has it.

    Args:
        graph: of the detector.
        example: inputs by name. With dynamic batch or size its images are more than one, and no square.
        dynamic_batch: take any number of images.
        dynamic_size: take images of any size.
    """
    dynamic = torch.export.Dim.DYNAMIC
    batch = {0: dynamic} if dynamic_batch else {}
    shapes = {name: dict(batch) for name in example}
    if dynamic_size:
        shapes["images"] |= {2: dynamic, 3: dynamic}
    return torch.export.export(graph, (), kwargs=example, dynamic_shapes=shapes, strict=False)
