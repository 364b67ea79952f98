"""Inspecting a DETR's decoder: the predictions of its layers for each query, their attention and their matching.

Blocks need no support for this. While an image is inspected, the methods of attention blocks that read the image are
wrapped to record their arguments.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import MultiScaleDeformableAttention
from ..layers.attention import BaseAttention
from ..modeling import Detector, Predictions
from ..modeling.predictions import FINAL
from ..ops.deformable_attention import sampling_locations
from ..structures import box_cxcywh_to_xyxy
from .inspection import CrossAttention, Inspection

_LAYER = re.compile(r"_(\d+)$")


def inspect_image(model: Detector, record: dict[str, Any]) -> Inspection:
    """Run a detector on one image, and record the predictions and the cross-attention of its decoder layers.

    The model is run in evaluation mode without gradients; the modes of its modules are restored afterwards.

    Args:
        model: any detector of this library with `transformer.decoder`.
        record: a model input: `image` (3, H, W), and optionally `height` and `width`, the frame of the boxes.

    Raises:
        ValueError: when the model has no decoder.
    """
    decoder = _decoder(model)
    attentions: dict[int, CrossAttention] = {}
    with _evaluating(model), ExitStack() as stack:
        for number, layer in enumerate(decoder.layers):
            stack.enter_context(_watched(layer, partial(attentions.__setitem__, number)))
        grids: list[Any] = []
        handle = decoder.register_forward_pre_hook(
            lambda module, args, options: grids.append(getattr(args[1], "grid", None)) if len(args) > 1 else None,
            with_kwargs=True,
        )
        stack.callback(handle.remove)
        images = model.preprocess([record], as_published=False)
        sets = layer_sets(model.predict(images))
    grid = (grids[0].height, grids[0].width) if grids and grids[0] is not None else None
    height = int(record.get("height", images.image_sizes[0][0]))
    width = int(record.get("width", images.image_sizes[0][1]))
    frame = torch.tensor([width, height, width, height])
    num_queries = sets[-1].boxes.shape[1]
    return Inspection(
        size=(height, width),
        probabilities=np.stack([_probabilities(layer.logits[0], model.num_classes) for layer in sets]),
        boxes=np.stack([(box_cxcywh_to_xyxy(layer.boxes[0].float().cpu()) * frame).numpy() for layer in sets]),
        attentions=tuple(_complete(attentions.get(number), grid, num_queries) for number in range(len(decoder.layers))),
    )


def match_layers(model: Detector, records: Sequence[dict[str, Any]]) -> np.ndarray:
    """Match the predictions of each layer with the objects.

    Args:
        model: a detector whose criterion has a `matcher`.
        records: model inputs with `instances`, as in training.

    Returns:
        (L, T) int64: the query that each layer's matching assigns to each of the T objects of all images, -1 for none.
    """
    criterion: Any = model.criterion
    rows = []
    with _evaluating(model):
        for record in records:
            images = model.preprocess([record], as_published=False)
            targets = model.targets([record], images)
            sets = layer_sets(model.predict(images))
            named = {str(number): prediction.at_least_float32() for number, prediction in enumerate(sets)}
            matches = criterion.matcher(named, targets)
            queries = np.full((len(sets), len(targets.labels)), -1, dtype=np.int64)
            for number in range(len(sets)):
                match = matches[str(number)]
                queries[number, match.target.cpu().numpy()] = match.query.cpu().numpy()
            rows.append(queries)
    return np.concatenate(rows, axis=1) if rows else np.zeros((1, 0), dtype=np.int64)


def layer_sets(predictions: Mapping[str, Predictions]) -> list[Predictions]:
    """The sets of matching queries among the results of `Detector.predict`, in the order of the layers."""
    numbers = sorted(int(match[1]) for name in predictions if (match := _LAYER.fullmatch(name)))
    return [*(predictions[f"_{number}"] for number in numbers), predictions[FINAL]]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _decoder(model: Any) -> Any:
    decoder = getattr(getattr(model, "transformer", None), "decoder", None)
    if decoder is None or not hasattr(decoder, "layers"):
        raise ValueError(f"{type(model).__name__} has no transformer.decoder with layers: nothing can be inspected")
    return decoder


@contextmanager
def _watched(layer: Any, keep: Callable[[CrossAttention], None]) -> Iterator[None]:
    """Inside, the cross-attention of a layer is passed to `keep`; with several, that of the last one is the result."""
    kinds = [operation for operation in getattr(layer, "operation_order", ()) if operation.endswith("_attn")]
    with ExitStack() as stack:
        for kind, block in zip(kinds, getattr(layer, "attentions", ()), strict=False):
            if kind != "cross_attn":
                continue
            for inner in block.modules():  # a gate wraps the attention block
                if isinstance(inner, MultiScaleDeformableAttention):
                    stack.enter_context(_wrapped(inner, "sample", lambda *args: keep(_sampling_points(*args))))
                elif isinstance(inner, BaseAttention):
                    stack.enter_context(_wrapped(inner, "attend_heads", lambda *args: keep(_weights(*args))))
        yield


@contextmanager
def _wrapped(block: nn.Module, name: str, record: Callable[..., None]) -> Iterator[None]:
    method = getattr(block, name)

    def recorded(*args: Any) -> Any:
        record(*args)
        return method(*args)

    block.__dict__[name] = recorded
    try:
        yield
    finally:
        del block.__dict__[name]


def _sampling_points(value: Tensor, shapes: Any, references: Tensor, offsets: Tensor, logits: Tensor) -> CrossAttention:
    """The sampling points from the arguments of `MultiScaleDeformableAttention.sample`."""
    locations = sampling_locations(references, offsets, shapes)[0]  # (Q, H, L, P, 2)
    weights = logits[0].flatten(-2).softmax(-1)
    levels = torch.arange(locations.shape[2])[:, None].expand(locations.shape[2:4]).flatten()
    return CrossAttention(
        weights.float().cpu().numpy(), locations.flatten(2, 3).float().cpu().numpy(), levels=levels.numpy()
    )


def _weights(q: Tensor, k: Tensor, v: Tensor, mask: Any, padding: Any, bias: Any) -> CrossAttention:
    """The weights from the arguments of `BaseAttention.attend_heads`; a single image has no mask and no padding."""
    logits = q[0].float() @ k[0].float().transpose(-1, -2) / q.shape[-1] ** 0.5  # (H, Q, N)
    if bias is not None:
        logits = logits + (bias[0] if bias.dim() > 2 else bias)
    return CrossAttention(logits.softmax(-1).transpose(0, 1).cpu().numpy())


def _complete(
    attention: CrossAttention | None, grid: tuple[int, int] | None, num_queries: int
) -> CrossAttention | None:
    """Add the map to which the weights belong; None if the shape of the weights does not fit the queries and cells."""
    if attention is None or len(attention.weights) != num_queries:
        return None
    if attention.points is not None:
        return attention
    if grid is None or grid[0] * grid[1] != attention.weights.shape[-1]:
        return None
    return CrossAttention(attention.weights, grid=grid)


def _probabilities(logits: Tensor, num_classes: int) -> np.ndarray:
    """(Q, K) probabilities: softmax if there is an additional class for "no object", otherwise sigmoids."""
    logits = logits.float().cpu()
    values = logits.softmax(-1)[..., :-1] if logits.shape[-1] == num_classes + 1 else logits.sigmoid()
    return values.numpy()
