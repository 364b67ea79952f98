"""Export of a detector: the file is written, run and compared, and removed again if it differs."""

import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2

import detrex_lite

from ...data import ResizeShortestEdge
from ...errors import did_you_mean
from ...modeling import Detector
from ...modeling.deformable import record_selected_tokens
from ...modeling.postprocess import Postprocessor
from ..description import INSIDE, OUTSIDE, Description
from ..exported import batch_inputs
from ..predictor import Predictor
from ..runtimes import Session, open_session
from .check import Differences, check_batches, compare, detect_in_torch, frames_of, made_up_image, measure_latency
from .formats import FIRST_OPSET, FORMATS, Format, Plan
from .graph import DetectionGraph, deployed

# Precision -> the largest accepted differences of scores and of boxes (in pixels) from the detector in torch.
LIMITS = {"fp32": (1e-4, 0.5), "fp16": (0.02, 4.0), "int8": (0.2, 32.0)}
# Precision -> the margin above the last score of a truncated list that detections need in order to be compared.
TIED = {"fp32": 1e-5, "fp16": 2e-3, "int8": 2e-2}
# For dynamic sizes, the example has this aspect ratio, and the test transform determines its short side.
ASPECT = 4 / 3
NUMPY_KINDS = ("softmax", "top_k")


class ExportError(ValueError):
    """A detector cannot be exported as requested, or the exported file gives other detections; no file is kept."""


def export(
    predictor: Predictor,
    output: str | os.PathLike[str],
    *,
    format: str | None = None,
    precision: str = "fp32",
    size: int | Sequence[int] | str | None = None,
    batch: int | str = 1,
    padded: bool = False,
    preprocess: str = INSIDE,
    postprocess: str = INSIDE,
    opset: int = FIRST_OPSET,
    score_limit: float | None = None,
    box_limit: float | None = None,
) -> Description:
    """Write a predictor's detector to a file, run the file, and compare its detections with those in torch.

    `detrex_lite.export(detrex_lite.load("dino_r50_4scale_12ep"), "dino.onnx")`; `ExportedPredictor` runs the file.

    Args:
        predictor: the predictor whose model, class names and test transform are exported.
        output: path of the file, with the suffix of the format.
        format: "onnx", "openvino", "torch.export" or "torchscript"; None to choose by the suffix.
        precision: "fp32"; "fp16", half precision (only of the weights with OpenVINO); "int8", 8-bit weights if the
            runtime supports them.
        size: (height, width) in pixels of all images, or the side of a square; "dynamic" for images of any size; None
            for the size that the test transform resizes all images to, or "dynamic" if it has no fixed size.
        batch: number of images in each run, or "dynamic".
        padded: whether the file has an input `image_sizes`, and thus accepts batches of images of different sizes with
            padding. It treats padding as published implementations do (`model.batch_invariant_eval=False`).
        preprocess: "inside": images are bytes; "outside": images are normalised float32.
        postprocess: "inside": outputs are detections; "outside": logits and boxes.
        opset: opset of ONNX.
        score_limit: the largest accepted difference of scores; None for that of the precision in `LIMITS`.
        box_limit: the largest accepted difference of box coordinates in pixels; None as above.

    Returns:
        The description stored in the file, with the measured differences and latency.

    Raises:
        ExportError: when the export fails, or a difference exceeds its limit. No file is kept then.
        ExportedFileError: when a package is missing.
        OSError: when the file cannot be written.
    """
    path = Path(output).expanduser()
    writer, name = _choose_format(format, path)
    _require("precision", precision, LIMITS)
    if precision not in writer.precisions:
        raise ExportError(f"format {name!r} has no precision {precision!r}; it has: {', '.join(writer.precisions)}")
    for key, value in (("preprocess", preprocess), ("postprocess", postprocess)):
        _require(key, value, (INSIDE, OUTSIDE))
    if batch != "dynamic" and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise ExportError(f"batch={batch!r} must be a number of images, at least 1, or 'dynamic'")
    detector = _checked_detector(predictor.model, postprocess)
    resize = _resize_of(predictor.augmentation)
    height_and_width = _size(size, resize)
    score_limit = LIMITS[precision][0] if score_limit is None else score_limit
    box_limit = LIMITS[precision][1] if box_limit is None else box_limit

    if height_and_width is not None:
        kind = "fit" if padded else "stretch"
        resize = {"kind": kind, "height": height_and_width[0], "width": height_and_width[1]}
    elif isinstance(resize, nn.Module):
        raise ExportError(
            f"exported files do not support the test transform {type(resize).__name__}, only ResizeShortestEdge of one "
            "length and torchvision's Resize to one size: give a fixed size"
        )
    constants = detector.preprocess
    description = Description(
        model=type(detector).__name__,
        format=name,
        precision=precision,
        class_names=tuple(predictor.class_names),
        category_ids=tuple(predictor.category_ids),
        batch=None if batch == "dynamic" else int(batch),
        height=None if height_and_width is None else height_and_width[0],
        width=None if height_and_width is None else height_and_width[1],
        padded=padded,
        size_divisibility=constants.size_divisibility,
        preprocess=preprocess,
        pixel_mean=tuple(constants.pixel_mean.flatten().tolist()),
        pixel_std=tuple(constants.pixel_std.flatten().tolist()),
        postprocess=postprocess,
        postprocessor=detector.postprocessor.settings(),  # type: ignore[attr-defined]
        selections=0,  # until it runs
        resize=resize,
        score_limit=score_limit,
        box_limit=box_limit,
        latency={},
        versions=_versions(writer),
    )
    base = height_and_width or _base_size(resize)
    plan = _plan(detector, description, base, writer.half_in_graph, opset)
    description = replace(description, selections=plan.selections)
    try:
        writer.check(plan)
    except ValueError as error:
        raise _as_export_error(error) from error
    reference = detector if detector.device.type == "cpu" else deployed(detector, torch.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        unchecked, checked = (Path(folder) / part / path.name for part in ("unchecked", "checked"))
        for file in (unchecked, checked):
            file.parent.mkdir()
        _write(writer, plan, unchecked, description)
        session = open_session(unchecked)
        differences = _check(reference, session, base, score_limit, box_limit)
        description = replace(
            description,
            differences=tuple(difference._asdict() for difference in differences),
            latency=measure_latency(reference, session, _images_of_latency(description, base)),
        )
        writer.describe(unchecked, description, checked)
        if open_session(checked).description.to_json() != description.to_json():
            raise ExportError(f"{path.name} does not contain the description that was written to it")
        for file in writer.files(checked):
            os.replace(file, path.with_name(file.name))
    return description


def _choose_format(format: str | None, path: Path) -> tuple[Format, str]:
    by_suffix = {writer.suffix: name for name, writer in FORMATS.items()}
    if format is None:
        if path.suffix not in by_suffix:
            raise ExportError(f"{path}: its suffix says no format{did_you_mean(path.suffix, by_suffix)}")
        format = by_suffix[path.suffix]
    _require("format", format, FORMATS)
    if path.suffix != FORMATS[format].suffix:
        raise ExportError(f"{path}: a file of format {format!r} ends in {FORMATS[format].suffix!r}")
    return FORMATS[format], format


def _require(key: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise ExportError(f"there is no {key} {value!r}{did_you_mean(str(value), choices)}")


def _checked_detector(model: Any, postprocess: str) -> Detector:
    if not isinstance(model, Detector):
        raise ExportError(f"a {type(model).__name__} cannot be exported: it is not a detrex_lite.modeling.Detector")
    if not isinstance(model.postprocessor, Postprocessor):
        raise ExportError(
            f"a {type(model.postprocessor).__name__} cannot be exported: make it a subclass of "
            "detrex_lite.modeling.postprocess.Postprocessor, with `candidates` and `settings`"
        )
    if model.postprocessor.with_masks:
        raise ExportError(
            f"masks cannot be exported, and {type(model.postprocessor).__name__} creates masks: for boxes only, make a "
            "TopKPostprocessor or SoftmaxPostprocessor the model's `postprocessor`"
        )
    kind = model.postprocessor.settings()["kind"]
    if postprocess == OUTSIDE and kind not in NUMPY_KINDS:
        raise ExportError(f"postprocessing of kind {kind!r} needs torch: use postprocess='inside'")
    if postprocess == OUTSIDE and model.postprocessor.suppression is not None:
        raise ExportError(
            f"suppression by {type(model.postprocessor.suppression).__name__} needs torch: use postprocess='inside'"
        )
    return model


def _resize_of(augmentation: Any) -> Any:
    """Return `Description.resize` for a test transform, or the transform itself if it is not supported."""
    if isinstance(augmentation, v2.Compose) and len(augmentation.transforms) == 1:
        augmentation = augmentation.transforms[0]
    if isinstance(augmentation, ResizeShortestEdge) and len(augmentation.short_edge_length) == 1:
        (length,) = augmentation.short_edge_length
        return {"kind": "shortest_edge", "short_edge_length": length, "max_size": augmentation.max_size}
    if isinstance(augmentation, v2.Resize) and isinstance(augmentation.size, Sequence) and len(augmentation.size) == 2:
        bilinear = v2.InterpolationMode.BILINEAR
        is_bilinear = augmentation.interpolation in (bilinear, bilinear.value)  # newer versions store the name
        if is_bilinear and augmentation.antialias:
            return {"kind": "stretch", "height": augmentation.size[0], "width": augmentation.size[1]}
    return augmentation


def _size(size: Any, resize: Any) -> tuple[int, int] | None:
    """Return (height, width), or None for any size."""
    if size is None:
        is_fixed = isinstance(resize, dict) and resize["kind"] == "stretch"
        return (resize["height"], resize["width"]) if is_fixed else None
    if size == "dynamic":
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if isinstance(size, str) or len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ExportError(f"size={size!r} must be the side of a square, (height, width), or 'dynamic'")
    return sides[0], sides[1]


def _base_size(resize: Any) -> tuple[int, int]:
    if resize is None:
        return 480, 640
    if resize["kind"] == "stretch":
        return resize["height"], resize["width"]
    short, limit = resize["short_edge_length"], resize["max_size"]
    return short, int(min(short * ASPECT, limit or short * ASPECT))


def _plan(detector: Detector, description: Description, base: tuple[int, int], half: bool, opset: int) -> Plan:
    dtype = torch.float16 if half and description.precision == "fp16" else torch.float32
    graph = DetectionGraph(
        deployed(detector, dtype),
        preprocess=description.preprocess == INSIDE,
        postprocess=description.postprocess == INSIDE,
    ).eval()
    # Dynamic sizes must not be equal by chance, and must not be 1.
    (height, width), batch = base, description.batch or 2
    if description.height is None and height == width:
        width += width // 2
    images = [made_up_image(height, width, seed) for seed in range(batch)]
    inputs = batch_inputs(description, images, frames_of(images))
    try:
        with record_selected_tokens() as selected:
            detections = detect_in_torch(
                detector.cpu(), images[:1], frames_of(images[:1]), replace(description, padded=False)
            )
    except (ValueError, RuntimeError) as error:
        raise ExportError(f"the model does not take images of {height}x{width} (height x width): {error}") from error
    assert len(detections) == 1
    example = {name: torch.from_numpy(value) for name, value in inputs.items()}
    return Plan(
        graph,
        example,
        dynamic_batch=description.batch is None,
        dynamic_size=description.height is None,
        precision=description.precision,
        opset=opset,
        selections=len(selected),
    )


def _write(writer: Format, plan: Plan, path: Path, description: Description) -> None:
    try:
        writer.write(plan, path, description)
    except OSError:
        raise
    except ValueError as error:
        raise _as_export_error(error) from error
    except Exception as error:  # exporters raise exceptions of many types
        dynamic = [
            axis for axis, is_dynamic in (("size", plan.dynamic_size), ("batch", plan.dynamic_batch)) if is_dynamic
        ]
        advice = f"; a file with a fixed {' and '.join(dynamic)} may be possible" if dynamic else ""
        reason = str(error).strip()[:1500]
        raise ExportError(
            f"{description.model} cannot be written as {description.format!r}{advice}. {type(error).__name__}: {reason}"
        ) from error


def _as_export_error(error: ValueError) -> ValueError:
    return error if type(error) is not ValueError else ExportError(str(error))


def _check(
    reference: Detector, session: Session, base: tuple[int, int], score_limit: float, box_limit: float
) -> list[Differences]:
    description = session.description
    low = round(base[0] * 0.75)
    sizes = [base, base] if description.height else [base, (base[1], low), (low, base[1])]
    batches = [description.batch] if description.batch else [1, 3]
    differences = []
    for images in check_batches(sizes, batches, padded=description.padded):
        try:
            difference = compare(
                reference, session, images, tied=TIED[description.precision], limits=(score_limit, box_limit)
            )
        except Exception as error:  # any exception of the runtime
            shapes = ", ".join(f"{image.shape[0]}x{image.shape[1]}" for image in images)
            raise ExportError(f"the exported file fails with images of {shapes}: {str(error).strip()[:800]}") from error
        differences.append(difference)
        where = f"with {difference.batch} images of {difference.height}x{difference.width}"
        if description.selections and not difference.selected <= score_limit:
            raise ExportError(
                f"the exported file does not select the tokens that {description.model} selects: {where} their scores "
                f"differ by up to {difference.selected:.3g} of the largest (limit {score_limit:g}). No file was written"
            )
        if not (difference.scores <= score_limit and difference.boxes <= box_limit):
            raise ExportError(
                f"the exported file does not detect what {description.model} detects: {where} scores differ by up to "
                f"{difference.scores:.3g} (limit {score_limit:g}) and boxes by {difference.boxes:.3g} pixels "
                f"(limit {box_limit:g}). No file was written"
            )
    if not any(difference.compared for difference in differences):
        raise ExportError(
            "the exported file was not compared, since no detection stands out from the others by its score: export "
            "trained weights"
        )
    return differences


def _images_of_latency(description: Description, base: tuple[int, int]) -> list[Any]:
    return [made_up_image(*base, seed) for seed in range(description.batch or 1)]


def _versions(writer: Format) -> dict[str, str]:
    versions = {"detrex_lite": detrex_lite.__version__, "torch": torch.__version__, "python": platform.python_version()}
    for package in writer.packages:
        try:
            versions[package] = __import__(package).__version__
        except ImportError:  # reported by `Format.check`
            continue
    return versions
