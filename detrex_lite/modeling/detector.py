"""The base of all detectors: detectron2's input and output format around a `predict` that subclasses write."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..structures import ImageBatch, Instances
from .predictions import Predictions
from .targets import Targets


class Detector(nn.Module):
    """Normalises and pads images, packs targets, and turns predictions into losses or detections.

    Args:
        num_classes: K, the one knob that everything else in a config refers to.
        criterion: called with (outputs, targets) in training, gives weighted losses.
        postprocessor: called with (last predictions, frame sizes) in evaluation, gives Instances.
        pixel_mean: 3 means over RGB in 0..255.
        pixel_std: 3 standard deviations over RGB in 0..255.
        size_divisibility: training pads batches to multiples of this many pixels. Fewer sizes occur then, which pays
            with `train.cudnn_benchmark`. Evaluation does not: detections must not depend on it.

    Raises:
        ValueError: when `num_classes` or `size_divisibility` is below 1.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        criterion: nn.Module,
        postprocessor: Callable[[Predictions, Sequence[tuple[int, int]]], list[Instances]],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 1,
    ):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: a detector has at least one class")
        if size_divisibility < 1:
            raise ValueError(
                f"size_divisibility={size_divisibility} is less than 1, with which batches are padded least"
            )
        self.num_classes = num_classes
        self.criterion = criterion
        self.postprocessor = postprocessor
        self.size_divisibility = size_divisibility
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def feature_maps(self, images: Tensor) -> Sequence[Tensor]:
        """What subclasses write: backbone and neck.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            Maps (B, C, h, w), finest first.
        """
        raise NotImplementedError(f"{type(self).__name__} must write feature_maps")

    def extract_features(self, images: ImageBatch) -> list[ImageBatch]:
        """Run `feature_maps` and keep track of the padding.

        Training runs the padded batch at once, as the published implementations do. There, convolutions near the
        border of an image see its padding, which is zero only in the input. Evaluation runs images of each size by
        themselves and pads the maps, so that detections do not depend on what else is in the batch.

        Returns:
            The maps as padded batches, finest first.
        """
        if self.training or images.mask is None:
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

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """What subclasses write: the named sets of predictions for a batch.

        Args:
            images: normalised and padded.
            targets: the ground truth in training (denoising needs it), None in evaluation.

        Returns:
            Suffix -> predictions; "" is the set that detections are made of.
        """
        raise NotImplementedError(f"{type(self).__name__} must write predict")

    def decode(self, images: ImageBatch, *queries: Any, **options: Any) -> Any:
        """What subclasses write: all of `predict` that computes with weights, from images and queries to predictions.

        `compile` compiles this, so it works on tensors alone: numbers of objects, and the sizes of single images, would
        be part of what is compiled. Of `DenoisingQueries` it may use all but `targets` and `layout`.
        """
        raise NotImplementedError(f"{type(self).__name__} must write decode")

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile `decode` for the mode, training or evaluation, that the model is in; all else runs as it is.

        One graph serves images of all sizes. Batches without padding have another one, as have other numbers of images
        and levels of a single cell; beyond `torch._dynamo.config.recompile_limit` of them torch runs what is new as it
        is. In evaluation, batches with padding are never compiled: images of each size run by themselves there, see
        `extract_features`.

        Args:
            args, options: of `torch.compile`, with `dynamic=True` unless they say otherwise.

        Raises:
            NotImplementedError: when the detector does not write `decode`.
        """
        if type(self).decode is Detector.decode:
            raise NotImplementedError(f"{type(self).__name__} must write decode, which is what is compiled")
        mode, eager = self.training, type(self).decode.__get__(self)
        compiled = torch.compile(eager, *args, **{"dynamic": True, **options})

        def decode(images: ImageBatch, *queries: Any, **keywords: Any) -> Any:
            is_compiled = self.training == mode and (mode or images.mask is None)
            return (compiled if is_compiled else eager)(images, *queries, **keywords)

        self.__dict__["decode"] = decode

    def __getstate__(self) -> dict[str, Any]:
        # A copy must not compute with the weights of this one.
        return {name: value for name, value in super().__getstate__().items() if name != "decode"}

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Losses in training, detections in evaluation.

        Args:
            batched_inputs: one dict per image with `image` ((3, H, W), RGB in 0..255, any dtype), in training
                `instances` (`gt_boxes.tensor` absolute xyxy, `gt_classes`, `image_size`), and optionally `height`
                and `width`, the frame that detections are wanted in (that of `image` otherwise).

        Returns:
            In training name -> weighted loss; in evaluation a list of {"instances": Instances} with `pred_boxes`
            (absolute xyxy), `scores` and `pred_classes`.

        Raises:
            ValueError: for an empty batch, an image that is not (3, H, W), or faulty ground truth.
        """
        images = self.preprocess(batched_inputs)
        if self.training:
            targets = Targets.from_inputs(batched_inputs, num_classes=self.num_classes, like=images.tensor)
            return self.criterion(self.predict(images, targets), targets)
        sizes = [
            (int(one.get("height", height)), int(one.get("width", width)))
            for one, (height, width) in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        return [{"instances": found} for found in self.postprocessor(self.predict(images)[""], sizes)]

    def preprocess(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageBatch:
        """Move images to the device (as they are: bytes are the cheapest to move), normalise and pad them."""
        images = []
        for position, one in enumerate(batched_inputs):
            image = one["image"]
            if image.dim() != 3 or image.shape[0] != 3:
                name = one.get("file_name", f"number {position} of the batch")
                raise ValueError(f"image {name} has shape {tuple(image.shape)}; expected (3, H, W)")
            image = image.to(self.device, non_blocking=True).to(self.pixel_mean.dtype)
            images.append((image - self.pixel_mean) / self.pixel_std)
        return ImageBatch.from_images(images, self.size_divisibility if self.training else 1)
