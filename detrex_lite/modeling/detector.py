"""The base of all detectors: detectron2's input and output format around a `predict` that subclasses implement."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..structures import ImageBatch, Instances
from .predictions import FINAL, Predictions
from .targets import Targets

# Maps (final predictions, frame sizes) to the segments of each image: ids (height, width) and their descriptions.
PanopticPostprocessor = Callable[[Predictions, Sequence[tuple[int, int]]], list[tuple[Tensor, list[dict[str, Any]]]]]


class ImagePreprocessor(nn.Module):
    """Normalises and pads images.

    Args:
        pixel_mean: 3 means over RGB in 0..255.
        pixel_std: 3 standard deviations over RGB in 0..255.
        size_divisibility: training pads batches to multiples of this many pixels, so that fewer sizes occur, which pays
            off with `train.cudnn_benchmark`. Evaluation ignores it, because detections must not depend on padding.

    Raises:
        ValueError: when `size_divisibility` is below 1.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        size_divisibility: int = 1,
    ):
        super().__init__()
        if size_divisibility < 1:
            raise ValueError(f"size_divisibility={size_divisibility} is below 1")
        self.size_divisibility = size_divisibility
        self._constants = {"pixel_mean": tuple(pixel_mean), "pixel_std": tuple(pixel_std)}
        for name, values in self._constants.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> "ImagePreprocessor":
        """Convert the constants from their full precision, so that they are rounded only once."""
        super()._apply(fn, recurse)
        for name, values in self._constants.items():
            setattr(self, name, getattr(self, name).new_tensor(values).view(3, 1, 1))
        return self

    def normalise(self, image: Tensor) -> Tensor:
        """image: (..., 3, H, W) RGB in 0..255 of any dtype. Returns it normalised, in the precision of this module."""
        return (image.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std

    def forward(self, batched_inputs: Sequence[dict[str, Any]], *, as_published: bool) -> ImageBatch:
        """Move images to the device in their original dtype (bytes transfer fastest), normalise and pad them.

        Args:
            batched_inputs: one dict per image with `image`, see `Detector.forward`.
            as_published: how modules treat the padding; see `ImageBatch`.

        Raises:
            ValueError: for an empty batch, or an image that is not (3, H, W).
        """
        images = []
        for position, record in enumerate(batched_inputs):
            image = record["image"]
            if image.dim() != 3 or image.shape[0] != 3:
                name = record.get("file_name", f"number {position} of the batch")
                raise ValueError(f"image {name} has shape {tuple(image.shape)}; expected (3, H, W)")
            image = image.to(self.pixel_mean.device, non_blocking=True)
            images.append(self.normalise(image))
        divisibility = self.size_divisibility if as_published else 1
        return ImageBatch.from_images(images, divisibility, as_published=as_published)


class Detector(nn.Module):
    """Base class of detectors: converts inputs to padded images and targets, and predictions to losses or detections.

    Args:
        num_classes: K; other values of a config refer to it.
        preprocess: normalises and pads images.
        criterion: maps (predictions, targets) to weighted losses, in training.
        postprocessor: maps (final predictions, frame sizes) to Instances, in evaluation.
        panoptic_postprocessor: maps the same to the segments of each image; None for instances alone.
        batch_invariant_eval: make the detections of an image independent of the other images of its batch, by running
            the backbone once per image size. False evaluates a padded batch at once, as published implementations do,
            which is faster for images of many sizes but gives different detections than each image alone.

    Raises:
        ValueError: when `num_classes` is below 1.
    """

    # Prefixes of parameters that evaluation does not use; a checkpoint for evaluation may lack them.
    training_only: tuple[str, ...] = (
        "denoising.",
        "branch.",
        "collaboration.",
        "queries.group_proposals.",
        "heads.group_heads.",
    )

    def __init__(
        self,
        *,
        num_classes: int,
        preprocess: ImagePreprocessor,
        criterion: nn.Module,
        postprocessor: Callable[[Predictions, Sequence[tuple[int, int]]], list[Instances]],
        panoptic_postprocessor: PanopticPostprocessor | None = None,
        batch_invariant_eval: bool = True,
    ):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} is below 1")
        self.num_classes = num_classes
        self.preprocess = preprocess
        self.criterion = criterion
        self.postprocessor = postprocessor
        self.panoptic_postprocessor = panoptic_postprocessor
        self.batch_invariant_eval = batch_invariant_eval

    @property
    def device(self) -> torch.device:
        return self.preprocess.pixel_mean.device

    def feature_maps(self, images: Tensor) -> Sequence[Tensor]:
        """Abstract. Run the backbone and the neck.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            Maps (B, C, h, w), finest first.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement feature_maps")

    def extract_features(self, images: ImageBatch) -> list[ImageBatch]:
        """Run `feature_maps` and keep track of the padding.

        Batches that are `as_published`, as in training, run at once: near the border of an image, convolutions then
        read its padding, which is zero only in the input. Otherwise images of each size run separately and their maps
        are padded, so that detections do not depend on the rest of the batch.

        Returns:
            The maps as padded batches, finest first.
        """
        if images.as_published or images.mask is None:
            return [images.resampled(maps) for maps in self.feature_maps(images.tensor)]
        positions: dict[tuple[int, int], list[int]] = {}
        for position, size in enumerate(images.image_sizes):
            positions.setdefault(size, []).append(position)
        maps_of_image: list[Sequence[Tensor]] = [()] * len(images)
        for (height, width), members in positions.items():
            levels = self.feature_maps(images.tensor[members, :, :height, :width])
            for position, maps in zip(members, zip(*levels, strict=True), strict=True):
                maps_of_image[position] = maps
        return [ImageBatch.from_images(list(level)) for level in zip(*maps_of_image, strict=True)]

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Mapping[str, Predictions]:
        """Abstract. Compute the named sets of predictions of a batch.

        Args:
            images: normalised and padded.
            targets: the ground truth when losses are computed, None for detections. With targets, there are also the
                queries that exist in training only, such as denoising queries.

        Returns:
            Maps names to predictions; `FINAL` is the set of the detections. `Outputs` carries further results.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement predict")

    def decode(self, images: ImageBatch, *queries: Any, **options: Any) -> Any:
        """Abstract. The part of `predict` with learned weights, from images and queries to predictions.

        `compile` compiles this part, so it must use tensors only: object counts and sizes of single images would become
        constants of the graph.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement decode")

    def losses(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Tensor]:
        """Compute further losses that do not compare sets of predictions: token scores, dense heads, distillation.

        Args:
            outputs: the result of `predict`; an `Outputs` if these losses need more than sets of predictions.
            targets: the objects of the batch.

        Returns:
            Maps names to weighted scalar losses; empty in this class.
        """
        return {}

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile `decode` for the current mode, training or evaluation; everything else stays eager.

        One graph covers all image sizes. The graph is recompiled for

        - batches without padding,
        - a different number of images,
        - a feature level with a single row or column.

        After `torch._dynamo.config.recompile_limit` recompilations torch falls back to eager mode. Batches with padding
        that are not `as_published` are never compiled, because images of each size run separately there, see
        `extract_features`.

        Args:
            args, options: arguments of `torch.compile`, with `dynamic=True` by default.

        Raises:
            NotImplementedError: when the detector does not implement `decode`.
        """
        if type(self).decode is Detector.decode:
            raise NotImplementedError(f"{type(self).__name__} must implement decode, which compile compiles")
        mode, eager = self.training, type(self).decode.__get__(self)
        compiled = torch.compile(eager, *args, **{"dynamic": True, **options})

        def decode(images: ImageBatch, *queries: Any, **keywords: Any) -> Any:
            is_compiled = self.training == mode and (images.as_published or images.mask is None)
            return (compiled if is_compiled else eager)(images, *queries, **keywords)

        self.__dict__["decode"] = decode

    def __getstate__(self) -> dict[str, Any]:
        # The compiled function is dropped, since a copy must not use the weights of this model.
        return {name: value for name, value in super().__getstate__().items() if name != "decode"}

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Compute losses in training, detections in evaluation.

        Args:
            batched_inputs: one dict per image with `image` ((3, H, W), RGB in 0..255, any dtype), in training
                `instances` (`gt_boxes.tensor` absolute xyxy, `gt_classes`, `image_size`, and for detectors with masks
                `gt_masks`), and optionally `height` and `width`, the size of the frame of the detections (default: that
                of `image`).

        Returns:
            In training a dict of weighted losses; in evaluation a list of {"instances": Instances} with `pred_boxes`
            (absolute xyxy), `scores` and `pred_classes`. Detectors with masks add `pred_masks`, (n, height, width) bool
            in the frame; panoptic ones {"panoptic_seg": (ids, segments)} in detectron2's form: int32 ids
            (height, width), 0 for no segment, and for each segment its `id`, `isthing`, `category_id`, `score` and
            `area`.

        Raises:
            ValueError: for an empty batch, an image that is not (3, H, W), or faulty ground truth.
        """
        images = self.preprocess(batched_inputs, as_published=self.training or not self.batch_invariant_eval)
        if self.training:
            targets = self.targets(batched_inputs, images)
            outputs = self.predict(images, targets)
            return _joined_losses(self.criterion(outputs, targets), self.losses(outputs, targets))
        sizes = [
            (int(record.get("height", height)), int(record.get("width", width)))
            for record, (height, width) in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        predictions = replace(self.predict(images)[FINAL], image_sizes=images.image_sizes)
        results: list[dict[str, Any]] = [
            {"instances": instances} for instances in self.postprocessor(predictions, sizes)
        ]
        if self.panoptic_postprocessor is not None:
            for result, segments in zip(results, self.panoptic_postprocessor(predictions, sizes), strict=True):
                result["panoptic_seg"] = segments
        return results

    def targets(self, batched_inputs: Sequence[dict[str, Any]], images: ImageBatch) -> Targets:
        """Pack the ground truth of inputs, with the properties that the criterion needs; see `Targets.from_inputs`."""
        return Targets.from_inputs(
            batched_inputs,
            num_classes=self.num_classes,
            like=images.tensor,
            with_masks=getattr(self.criterion, "needs_masks", False),
            with_image_sizes=getattr(self.criterion, "needs_image_sizes", False),
        )


def _joined_losses(losses_of_sets: dict[str, Tensor], other_losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join both dicts; raises a ValueError for other losses that are not scalars or whose names are taken."""
    if not isinstance(other_losses, Mapping):
        raise ValueError(f"Detector.losses returned a {type(other_losses).__name__}; it must return a dict of losses")
    for name, loss in other_losses.items():
        if name in losses_of_sets:
            raise ValueError(f"Detector.losses returned {name!r}, which the criterion also returns; use another name")
        if not isinstance(loss, Tensor) or loss.dim() > 0:
            description = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ValueError(f"Detector.losses returned {name!r} {description}; a loss must be a scalar tensor")
    return {**losses_of_sets, **other_losses}


class Outputs(dict[str, Predictions]):
    """Sets of predictions by name, with further results for `Detector.losses`: `Outputs(sets, memory=tokens)`.

    Args:
        sets: maps names to predictions.
        extra: further results by name.

    Attributes:
        extra: the further results, such as `outputs.extra["memory"]`.
    """

    def __init__(self, sets: Mapping[str, Predictions], **extra: Any):
        super().__init__(sets)
        self.extra = extra


def without_padding(compute: Callable[..., Tensor], *maps: ImageBatch) -> ImageBatch:
    """Apply a function to maps so that the result of an image does not depend on its padding.

    Batches that are `as_published` run at once; otherwise images of each size run separately, without padding.

    Args:
        compute: maps tensors (B, ..., h, w) to a map with the resolution of the first one.
        maps: the maps of one batch.
    """
    first = maps[0]
    if first.as_published or all(image_batch.mask is None for image_batch in maps):
        return first.resampled(compute(*(image_batch.tensor for image_batch in maps)))
    positions: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for position, sizes in enumerate(zip(*(image_batch.image_sizes for image_batch in maps), strict=True)):
        positions.setdefault(sizes, []).append(position)
    results = [first.tensor] * len(first)
    for sizes, members in positions.items():
        parts = [image_batch.tensor[members][..., :h, :w] for image_batch, (h, w) in zip(maps, sizes, strict=True)]
        for position, result in zip(members, compute(*parts), strict=True):
            results[position] = result
    return ImageBatch.from_images(results)


def require_equal(fact: str, **values: Any) -> None:
    """Raise a ValueError when parts of a detector contradict each other.

    Args:
        fact: the fact that the values state.
        values: maps parts to the value that each states; None states nothing.

    Raises:
        ValueError: when not all values are equal.
    """
    stated = {part: value for part, value in values.items() if value is not None}
    if len(set(stated.values())) > 1:
        description = ", ".join(f"{value} by {part}" for part, value in stated.items())
        raise ValueError(f"{fact} is given as {description}: the parts of a detector must agree")


def channels_of_positions(position_embedding: nn.Module) -> int | None:
    """Return C of this library's position embeddings, which have equal channels for x and y; None for others."""
    per_coordinate = getattr(position_embedding, "num_pos_feats", None)
    return None if per_coordinate is None else 2 * int(per_coordinate)
