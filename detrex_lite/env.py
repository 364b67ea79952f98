"""Reports installed packages and the features of this machine, for bug reports: `python -m detrex_lite.env`."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

import detrex_lite

REQUIRED = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pycocotools",
    "omegaconf",
    "fvcore",
    "PIL",
    "tqdm",
    "safetensors",
    "filelock",
    "tensorboard",
    "matplotlib",
)
OPTIONAL = {  # package: (purpose, how to install it)
    "wandb": ("logging runs to Weights & Biases", "pip install wandb"),
    "mlflow": ("logging runs to MLflow", "pip install mlflow"),
    "faster_coco_eval": ("COCO average precision in C++", "pip install faster-coco-eval"),
    "timm": ("configs that build backbones of timm", "pip install -U timm"),
    "triton": ("the fast kernels and torch.compile on a GPU", "comes with torch's CUDA builds"),
    "transformers": ("the tests that compare with its DETR", "pip install transformers"),
    "onnx": ("ONNX export through torch.onnx", "pip install onnx"),
    "detectron2": ("running configs under detectron2's engine", "see docs/detectron2.md"),
}


def collect() -> dict[str, Any]:
    """Collect the contents of the report as plain values.

    A missing or broken package is part of the report and never raises an error.

    Returns:
        `system`, `device`, `kernels`: descriptions by name; `packages`: `version` and `error` by name, one of
        which is None; `missing`: a sentence for each package that cannot be used.
    """
    packages = {name: _package(name) for name in (*REQUIRED, *OPTIONAL)}
    return {
        "system": {
            "detrex_lite": f"{detrex_lite.__version__} ({os.path.dirname(detrex_lite.__file__)})",
            "python": f"{platform.python_version()} ({sys.executable})",
            "platform": platform.platform(),
        },
        "packages": packages,
        "device": _guarded("device", _device),
        "kernels": {
            **_guarded("attention", _attention),
            **_guarded("deformable attention", _deformable_attention),
            "triton": packages["triton"]["error"] or "imports",
            "C++ compiler": _compiler() or "none found; torch.compile on a CPU needs one (g++, $CXX)",
        },
        "missing": _missing(packages),
    }


def format_report(report: dict[str, Any]) -> str:
    """Format the report of `collect` as text."""
    packages = {name: package["version"] or package["error"] for name, package in report["packages"].items()}
    lines = []
    for title, entries in {**report, "packages": packages}.items():
        if title != "missing":
            lines += [title, *(f"  {name:<20} {value}" for name, value in entries.items())]
    lines += ["missing", *(f"  {sentence}" for sentence in report["missing"] or ["nothing"])]
    return "\n".join(lines)


def _package(name: str) -> dict[str, str | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = "not installed" if error.name == name else f"broken: {_one_line(error)}"
        return {"version": None, "error": missing}
    except Exception as error:  # such as an extension that was built for another version of torch
        return {"version": None, "error": f"broken: {_one_line(error)}"}
    version = getattr(module, "__version__", None)
    if not isinstance(version, str):
        distributions = importlib.metadata.packages_distributions().get(name, [name])
        version = _version(distributions[0])
    return {"version": version, "error": None}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "installed, version unknown"


def _missing(packages: dict[str, dict[str, str | None]]) -> list[str]:
    sentences = []
    for name, package in packages.items():
        if package["error"] is not None:
            purpose, remedy = OPTIONAL.get(
                name, ("detrex_lite itself", f"pip install {'pillow' if name == 'PIL' else name}")
            )
            sentences.append(f"{name}: {package['error']}; needed for {purpose}; {remedy}")
    return sentences


def _guarded(name: str, section: Callable[[], dict[str, str]]) -> dict[str, str]:
    try:
        return section()
    except Exception as error:
        return {name: f"unknown: {_one_line(error)}"}


def _device() -> dict[str, str]:
    import torch

    instructions = torch.backends.cpu.get_cpu_capability()
    devices = {"cpu": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads, {instructions}"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            memory = device.total_memory / 2**30
            capability = f"capability {device.major}.{device.minor}"
            devices[f"cuda:{index}"] = f"{device.name}, {capability}, {memory:.1f} GiB"
    elif torch.version.cuda is None and torch.version.hip is None:
        devices["cuda"] = "not used: this torch is built without it"
    else:
        devices["cuda"] = "not used: torch is built with it, but finds no GPU or no driver"
    if torch.backends.mps.is_available():
        devices["mps"] = "available"
    return devices


def _attention() -> dict[str, str]:
    """The implementations of scaled_dot_product_attention that run on this machine, determined by running them."""
    import torch
    from torch.nn.attention import SDPBackend

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    query = torch.zeros(1, 2, 16, 32, device=device, dtype=dtype)
    mask = torch.ones(16, 16, dtype=torch.bool, device=device)
    usable = []
    for name in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):
        backend = getattr(SDPBackend, name, None)
        if backend is not None and _attends(backend, query, None):
            masked = _attends(backend, query, mask)
            usable.append(name.lower() if masked else f"{name.lower()} (not with masks)")
    return {"attention": f"{', '.join(usable)} ({device}, {str(dtype).removeprefix('torch.')})"}


def _deformable_attention() -> dict[str, str]:
    """The backend that deformable attention uses on each device."""
    import torch

    from detrex_lite.ops.deformable_attention import describe_backend

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    backends = [f"{device}: {describe_backend(torch.device(device))}" for device in devices]
    return {"deformable attention": "; ".join(backends)}


def _attends(backend: Any, query: Any, mask: Any) -> bool:
    from torch.nn.attention import sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    try:
        with warnings.catch_warnings(), sdpa_kernel(backend):
            warnings.simplefilter("ignore")  # torch explains in warnings why a backend cannot run
            scaled_dot_product_attention(query, query, query, attn_mask=mask)
    except RuntimeError:
        return False
    return True


def _compiler() -> str | None:
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    return next((path for path in map(shutil.which, filter(None, candidates)) if path), None)


def _one_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    print(format_report(collect()))
