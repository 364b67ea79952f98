"""Writers of exported files, one class per format."""

import contextlib
import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ops import use_deformable_attention_backend
from ..description import KEY, Description
from ..runtimes import require
from .graph import DetectionGraph, trace

FIRST_OPSET = 18  # of torch's exporter
LARGEST_ONNX = 2**31 - 2**20  # limit in bytes of a protobuf message, minus a reserve for everything but weights


class Plan(NamedTuple):
    """What to write.

    Attributes:
        graph: the detector as a graph.
        example: example inputs by name.
        dynamic_batch, dynamic_size: see `trace`.
        precision: "fp32", "fp16" or "int8".
        opset: opset of ONNX.
        selections: see `Description`.
    """

    graph: DetectionGraph
    example: dict[str, Tensor]
    dynamic_batch: bool
    dynamic_size: bool
    precision: str
    opset: int
    selections: int


class Format(ABC):
    """A format of exported files.

    Attributes:
        suffix: suffix of the file.
        packages: packages that are needed besides torch.
        precisions: supported precisions.
        half_in_graph: whether the graph computes in half precision for "fp16"; otherwise only the weights are in fp16.
    """

    suffix: str
    packages: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "fp16")
    half_in_graph = True

    def check(self, plan: Plan) -> None:
        """Check, before any computation, that the plan can be written; raises ValueError otherwise."""
        for package in self.packages:
            require(package, f"format {next(name for name, format_ in FORMATS.items() if format_ is self)!r}")

    @abstractmethod
    def write(self, plan: Plan, path: Path, description: Description) -> None:
        """Write the file."""

    @abstractmethod
    def describe(self, path: Path, description: Description, target: Path) -> None:
        """Copy the file with another description."""

    def files(self, path: Path) -> list[Path]:
        """List all files that belong to the exported file."""
        return [path]


class TorchExport(Format):
    """torch.export's .pt2, which torch runs and compiles."""

    suffix = ".pt2"

    def write(self, plan: Plan, path: Path, description: Description) -> None:
        """See `Format.write`."""
        torch.export.save(_program(plan), str(path), extra_files={KEY: description.to_json()})

    def describe(self, path: Path, description: Description, target: Path) -> None:
        """See `Format.describe`."""
        torch.export.save(torch.export.load(str(path)), str(target), extra_files={KEY: description.to_json()})


class TorchScript(Format):
    """torch.jit's file, for programs that only have libtorch."""

    suffix = ".torchscript"

    def write(self, plan: Plan, path: Path, description: Description) -> None:
        """See `Format.write`."""
        with _for_graphs(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated; constant sizes are checked afterwards
            traced = torch.jit.trace(plan.graph, example_kwarg_inputs=plan.example, check_trace=False)
            torch.jit.save(traced, str(path), _extra_files={KEY: description.to_json()})

    def describe(self, path: Path, description: Description, target: Path) -> None:
        """See `Format.describe`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.load(str(path)), str(target), _extra_files={KEY: description.to_json()})


class Onnx(Format):
    """ONNX with operators of the standard opset only, for onnxruntime, TensorRT and others."""

    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    precisions = ("fp32", "fp16", "int8")

    def check(self, plan: Plan) -> None:
        """See `Format.check`."""
        super().check(plan)
        last = require("onnx", "format 'onnx'").defs.onnx_opset_version()
        if not FIRST_OPSET <= plan.opset <= last:
            raise ValueError(f"opset={plan.opset} cannot be written: choose one of {FIRST_OPSET}..{last}")
        size = sum(value.numel() * value.element_size() for value in plan.graph.state_dict().values())
        if size > LARGEST_ONNX:
            raise ValueError(
                f"the weights take {size / 2**30:.1f} GiB, and an ONNX file is limited to 2: export with "
                "precision='fp16', or to another format"
            )

    def write(self, plan: Plan, path: Path, description: Description) -> None:
        """See `Format.write`."""
        onnx = require("onnx", "format 'onnx'")
        with _quiet():
            program = torch.onnx.export(
                _program(plan),
                dynamo=True,
                opset_version=plan.opset,
                output_names=list(description.outputs),
                verbose=False,
                external_data=False,
            )
        assert program is not None
        model = program.model_proto
        version = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
        if version != plan.opset:
            raise ValueError(
                f"opset={plan.opset} cannot be written: torch {torch.__version__} gave {version}; ask for that one"
            )
        _set_property(model, description)
        onnx.save(model, str(path))
        if plan.precision == "int8":
            self._quantise(path, description)

    def _quantise(self, path: Path, description: Description) -> None:
        """Quantise weights of matrix products to 8-bit integers, and activations too, with a scale computed per run."""
        quantization = require("onnxruntime.quantization", "precision='int8'")
        onnx = require("onnx", "format 'onnx'")
        whole = path.with_suffix(".whole.onnx")
        path.rename(whole)
        with _quiet():
            quantization.quantize_dynamic(
                str(whole), str(path), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True
            )
        whole.unlink()
        model = onnx.load(str(path))
        _set_property(model, description)
        onnx.save(model, str(path))

    def describe(self, path: Path, description: Description, target: Path) -> None:
        """See `Format.describe`."""
        onnx = require("onnx", "format 'onnx'")
        model = onnx.load(str(path))
        _set_property(model, description)
        onnx.save(model, str(target))


class OpenVino(Format):
    """OpenVINO's .xml, with the weights in a .bin next to it."""

    suffix = ".xml"
    packages = ("openvino", "onnx", "onnxscript")
    precisions = ("fp32", "fp16", "int8")
    half_in_graph = False

    def check(self, plan: Plan) -> None:
        """See `Format.check`."""
        super().check(plan)
        if plan.precision == "int8":
            require("nncf", "precision='int8' of OpenVINO")

    def write(self, plan: Plan, path: Path, description: Description) -> None:
        """See `Format.write`."""
        openvino = require("openvino", "format 'openvino'")
        between = path.with_suffix(".onnx")
        FORMATS["onnx"].write(plan._replace(precision="fp32"), between, description)
        model = openvino.convert_model(str(between))
        if plan.precision == "int8":
            with _quiet():
                model = require("nncf", "precision='int8' of OpenVINO").compress_weights(model)
        model.set_rt_info(description.to_json(), KEY)
        openvino.save_model(model, str(path), compress_to_fp16=plan.precision == "fp16")
        between.unlink()

    def describe(self, path: Path, description: Description, target: Path) -> None:
        """See `Format.describe`."""
        openvino = require("openvino", "format 'openvino'")
        model = openvino.Core().read_model(str(path))
        model.set_rt_info(description.to_json(), KEY)
        openvino.serialize(model, str(target), str(target.with_suffix(".bin")))

    def files(self, path: Path) -> list[Path]:
        """List the .bin with the weights first, so that an existing .xml is always complete."""
        return [path.with_suffix(".bin"), path]


FORMATS: dict[str, Format] = {
    "onnx": Onnx(),
    "openvino": OpenVino(),
    "torch.export": TorchExport(),
    "torchscript": TorchScript(),
}


def _program(plan: Plan) -> Any:
    with _for_graphs(), _quiet():
        return trace(plan.graph, plan.example, dynamic_batch=plan.dynamic_batch, dynamic_size=plan.dynamic_size)


@contextlib.contextmanager
def _for_graphs() -> Iterator[None]:
    """Compute deformable attention by one operator per level, which all formats support."""
    with torch.no_grad(), use_deformable_attention_backend("grid_sample"):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress messages of exporters; their errors are still raised."""
    previous_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous_level)


def _set_property(model: Any, description: Description) -> None:
    entries = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(entries)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, description.to_json()
