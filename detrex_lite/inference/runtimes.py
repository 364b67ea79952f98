"""Runtimes of exported files: onnxruntime, OpenVINO and torch, each imported when a file needs it."""

import os
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .description import KEY, Description, ExportedFileError

EXTRAS = {
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "runtime",
    "openvino": "openvino",
}
"""Package -> the extra of setup.py that installs it."""


class Session(Protocol):
    """An exported file that is loaded and can be run.

    Attributes:
        description: the description stored in the file.
    """

    description: Description

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs that `Description.outputs` names."""
        ...


def require(package: str, needed_for: str) -> Any:
    """Import an optional package.

    Raises:
        ExportedFileError: when it is not installed; the message has the command that installs it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        command = f"pip install 'detrex-lite[{EXTRAS[package]}]'" if package in EXTRAS else f"pip install {package}"
        raise ExportedFileError(
            f"{needed_for} needs the package {package.partition('.')[0]}, which is not installed: {command}"
        ) from error


class OnnxSession:
    """Runs files by onnxruntime. Devices: "cpu", "cuda", "cuda:1".

    Args:
        path: path of an .onnx file.
        device: device to run on; "auto" is the CPU.
        threads: number of threads of an operator; None for all cores.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None):
        runtime = require("onnxruntime", f"running {path.name}")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        if threads is not None:
            options.intra_op_num_threads = threads
        kind, _, number = device.partition(":")
        provider = {"auto": "CPUExecutionProvider", "cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
        if provider.get(kind) not in runtime.get_available_providers():
            raise ExportedFileError(
                f"device={device!r} is not available: this onnxruntime has "
                f"{', '.join(runtime.get_available_providers())}"
            )
        settings = [{"device_id": number}] if number else None
        try:
            self._session = runtime.InferenceSession(str(path), options, [provider[kind]], settings)
        except Exception as error:  # onnxruntime has a dozen exception types
            raise _damaged(path, error) from error
        stored = self._session.get_modelmeta().custom_metadata_map
        self.description = Description.from_json(stored.get(KEY), path)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        names = self.description.outputs
        return dict(zip(names, self._session.run(list(names), dict(inputs)), strict=True))


class OpenVinoSession:
    """Runs files by OpenVINO. Devices: those that OpenVINO lists, such as "cpu" and "gpu".

    Args:
        path: path of an .xml file, which has its .bin file next to it.
        device: device to run on; "auto" is the CPU.
        threads: number of threads of a run; None for all cores.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None):
        openvino = require("openvino", f"running {path.name}")
        core = openvino.Core()
        name = "CPU" if device == "auto" else device.upper()
        if name.partition(".")[0] not in {device_name.partition(".")[0] for device_name in core.available_devices}:
            raise ExportedFileError(
                f"device={device!r} is not available: OpenVINO has {', '.join(core.available_devices)}"
            )
        try:
            model = core.read_model(str(path))
        except RuntimeError as error:
            raise _damaged(path, error) from error
        stored = model.get_rt_info(KEY).value if model.has_rt_info(KEY) else None
        self.description = Description.from_json(stored, path)
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if self.description.precision == "fp32" and name == "CPU":
            settings["INFERENCE_PRECISION_HINT"] = "f32"  # the default on processors with bfloat16 would be that
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._model = core.compile_model(model, name, settings)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        outputs = self._model(dict(inputs))
        return {name: np.array(outputs[name]) for name in self.description.outputs}


class TorchSession:
    """Runs files of torch.export (.pt2) and of torch.jit (.torchscript) by torch.

    Args:
        path: path of a file.
        device: device to run on, as for `torch.device`; "auto" is the CPU.
        threads: must be None, because torch's number of threads is set for the whole process.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None):
        torch = require("torch", f"running {path.name}")
        if threads is not None:
            raise ExportedFileError(f"threads={threads} is for other files: use torch.set_num_threads for {path.name}")
        self._torch = torch
        self._device = torch.device("cpu" if device == "auto" else device)
        stored = {KEY: ""}
        try:
            if path.suffix == ".pt2":
                program = torch.export.load(str(path), extra_files=stored)
                if self._device.type != "cpu":
                    program = import_module("torch.export.passes").move_to_device_pass(program, self._device)
                self._module = program.module()
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch.jit is deprecated
                    self._module = torch.jit.load(str(path), map_location=self._device, _extra_files=stored)
        except Exception as error:  # from reading zip files, pickles or graphs
            raise _damaged(path, error) from error
        text = stored[KEY]
        self.description = Description.from_json(text.decode() if isinstance(text, bytes) else text, path)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session.run`."""
        torch = self._torch
        with torch.no_grad():
            tensors = {name: torch.from_numpy(value).to(self._device) for name, value in inputs.items()}
            outputs = self._module(**tensors)
        return {name: value.cpu().numpy() for name, value in zip(self.description.outputs, outputs, strict=True)}


SESSIONS: dict[str, Any] = {
    ".onnx": OnnxSession,
    ".xml": OpenVinoSession,
    ".pt2": TorchSession,
    ".torchscript": TorchSession,
}
"""Suffix of an exported file -> its runtime."""


def open_session(path: str | os.PathLike[str], *, device: str = "auto", threads: int | None = None) -> Session:
    """Load an exported file.

    Args:
        path: path of a file that `detrex_lite.export` wrote; its suffix determines the runtime.
        device: device to run on; "auto" is the CPU.
        threads: None for all cores.

    Raises:
        ExportedFileError: when it cannot be run here.
    """
    file = Path(path).expanduser()
    if file.suffix not in SESSIONS:
        raise ExportedFileError(f"{file} is not an exported file, whose suffixes are {', '.join(SESSIONS)}")
    if not file.is_file():
        raise ExportedFileError(f"there is no file {file.absolute()}")
    return SESSIONS[file.suffix](file, device=device, threads=threads)


def _damaged(path: Path, error: Exception) -> ExportedFileError:
    reason = " ".join(str(error).split())[:300]
    return ExportedFileError(f"{path} cannot be loaded; it is damaged, or of a newer version ({reason})")
