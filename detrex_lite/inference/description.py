"""The description stored in an exported file, so that the file can be run without its config."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

KEY = "detrex_lite"
"""Key of the description in the metadata: `metadata_props` of ONNX, `rt_info` of OpenVINO, an extra file of torch."""

INSIDE, OUTSIDE = "inside", "outside"


class ExportedFileError(ValueError):
    """An exported file cannot be run: it is missing or damaged, or a package or a device is not available."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """Describes an exported detector.

    Attributes:
        model: the class of the detector.
        format: "onnx", "openvino", "torch.export" or "torchscript".
        precision: "fp32", "fp16" or "int8".
        class_names: K names.
        category_ids: K category ids of the classes in the data set; empty when they are unknown.
        batch: number of images in each run; None for any number.
        height, width: size of the images in pixels; None for any size.
        padded: whether the file has the input `image_sizes`, the sizes of the images without padding.
        size_divisibility: padded batches are padded to multiples of this many pixels.
        preprocess: "inside" if the file takes uint8 images and normalises them; "outside" if it takes normalised ones.
        pixel_mean, pixel_std: mean and standard deviation of RGB in 0..255.
        postprocess: "inside" if outputs are detections, "outside" if they are logits and boxes.
        postprocessor: `kind` and arguments of the postprocessor; empty for an unknown postprocessor.
        selections: how often a run selects encoded tokens by their scores: once with two stages, otherwise never.
        resize: `kind` and lengths in pixels of the resizing that images need; None if they are not resized.
        differences: the checks after the export: `batch`, `height`, `width`, the number of detections `compared`, and
            the largest differences from the detector in torch: of `scores`, of `boxes` in pixels, and of the scores of
            `selected` tokens.
        score_limit, box_limit: the largest allowed differences of scores and boxes.
        latency: milliseconds of a run, `eager` in torch and `exported`, and its `images`, `height` and `width`.
        versions: versions of the packages that wrote the file.
    """

    model: str
    format: str
    precision: str
    class_names: tuple[str, ...]
    batch: int | None
    height: int | None
    width: int | None
    padded: bool
    size_divisibility: int
    preprocess: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    postprocess: str
    postprocessor: Mapping[str, Any]
    selections: int
    resize: Mapping[str, Any] | None
    differences: tuple[Mapping[str, Any], ...] = ()
    score_limit: float
    box_limit: float
    latency: Mapping[str, Any]
    versions: Mapping[str, str]
    category_ids: tuple[int, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs of a run.

        With postprocessing: `scores` (B, D), `labels` (B, D), `boxes` (B, D, 4) absolute xyxy and `num` (B,), where the
        first `num` rows of an image are detections. Without: `logits` (B, Q, K or K + 1) and `boxes` (B, Q, 4) cxcywh
        in 0..1. `selected_tokens` follow.
        """
        names = ("scores", "labels", "boxes", "num") if self.postprocess == INSIDE else ("logits", "boxes")
        return names + self.selected_tokens

    @property
    def selected_tokens(self) -> tuple[str, ...]:
        """The names of the outputs with indices of selected tokens, (B, Q) each: `selected`, or numbered if several."""
        return ("selected",) if self.selections == 1 else tuple(f"selected_{n}" for n in range(self.selections))

    def to_json(self) -> str:
        """Return the description as one line of ASCII."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, path: Any) -> "Description":
        """Parse the description in a file's metadata.

        Args:
            text: the result of `to_json`; None when the file has no description.
            path: path of the file, for messages.

        Raises:
            ExportedFileError: when there is no description, or it was written by an incompatible version.
        """
        if not text:
            raise ExportedFileError(f"{path} does not say how to run it: it was not written by detrex_lite.export")
        values = json.loads(text)
        names = {field.name for field in fields(cls)}
        required = {field.name for field in fields(cls) if field.default is MISSING}
        if not required <= values.keys() <= names:
            differing = ", ".join(sorted((values.keys() - names) | (required - values.keys())))
            raise ExportedFileError(
                f"{path} was exported by detrex_lite {values.get('versions', {}).get('detrex_lite', 'unknown')}, whose "
                f"description of a file differs in: {differing}. Export it again"
            )
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**arguments)
