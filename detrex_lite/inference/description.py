"""What an exported file says about itself, so that it can be run without the config that it was made of."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

KEY = "detrex_lite"
"""Of the metadata that holds a description: `metadata_props` of ONNX, `rt_info` of OpenVINO, an extra file of torch."""

INSIDE, OUTSIDE = "inside", "outside"


class ExportedFileError(ValueError):
    """An exported file cannot be run: it is missing or damaged, or a package or a device is not there."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """An exported detector.

    Attributes:
        model: the class of the detector.
        format: "onnx", "openvino", "torch.export" or "torchscript".
        precision: "fp32", "fp16" or "int8".
        class_names: K names.
        category_ids: K ids that the data set has for the classes; empty where they are not known.
        batch: images in each run; None for any number.
        height, width: of the images in pixels; None for any.
        padded: whether the input `image_sizes` says which part of each image is no padding.
        size_divisibility: padded batches are padded to multiples of this many pixels.
        preprocess: "inside" where images are bytes, which the file normalises; "outside" where they are normalised.
        pixel_mean, pixel_std: of RGB in 0..255.
        postprocess: "inside" where outputs are detections, "outside" where they are logits and boxes.
        postprocessor: `kind` and arguments of what makes detections of logits and boxes; empty where it is unknown.
        selections: how often a run selects encoded tokens by their scores: once with two stages, otherwise never.
        resize: `kind` and lengths in pixels of what images go through before; None for images as they are.
        differences: the checks after the export: `batch`, `height`, `width`, how many detections were `compared`, and
            the largest differences from the detector in torch: of `scores`, of `boxes` in pixels, and of the scores of
            `selected` tokens.
        score_limit, box_limit: of these differences.
        latency: milliseconds of a run: `eager` in torch, `exported`, and `images`, `height` and `width` of it.
        versions: of the packages that made the file.
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
        """The names of what a run gives.

        `scores` (B, D), `labels` (B, D), `boxes` (B, D, 4) absolute xyxy and `num` (B,), the first so many of which are
        detections; or `logits` (B, Q, K or K + 1) and `boxes` (B, Q, 4) cxcywh in 0..1. After these `selected_tokens`.
        """
        found = ("scores", "labels", "boxes", "num") if self.postprocess == INSIDE else ("logits", "boxes")
        return found + self.selected_tokens

    @property
    def selected_tokens(self) -> tuple[str, ...]:
        """The names of the outputs that are indices of selected tokens, (B, Q) each: `selected`, or with a number."""
        return ("selected",) if self.selections == 1 else tuple(f"selected_{n}" for n in range(self.selections))

    def to_json(self) -> str:
        """One line of ASCII."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, path: Any) -> "Description":
        """The description in a file's metadata.

        Args:
            text: what `to_json` gave; None where the file has none.
            path: of the file, for messages.

        Raises:
            ExportedFileError: when there is none, or it is of another version.
        """
        if not text:
            raise ExportedFileError(f"{path} does not say how to run it: it was not written by detrex_lite.export")
        values = json.loads(text)
        names = {field.name for field in fields(cls)}
        required = {field.name for field in fields(cls) if field.default is MISSING}
        if not required <= values.keys() <= names:
            unlike = ", ".join(sorted((values.keys() - names) | (required - values.keys())))
            raise ExportedFileError(
                f"{path} was exported by detrex_lite {values.get('versions', {}).get('detrex_lite', 'unknown')}, whose "
                f"description of a file differs in: {unlike}. Export it again"
            )
        fixed: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**fixed)
