"""Packaging. `projects`, `configs` and `tools` are installed inside the package: they import from any folder."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "detrex_lite/__init__.py").read_text()).group(1)
FAST_EVAL = "faster-coco-eval>=1.8"  # gives the numbers of pycocotools, crowds and empty images included
ONNXRUNTIME = "onnxruntime>=1.20"
OPENVINO = "openvino>=2024.4"
EXPORT = ["onnx>=1.17", "onnxscript>=0.5", ONNXRUNTIME]
SHTAB = "shtab>=1.13"
TIMM = "timm>=1.0.31"  # those before leave layers behind that no feature map needs

packages = find_packages(include=["detrex_lite", "detrex_lite.*"])
package_dir = {}
for folder in ("projects", "configs", "tools"):
    package_dir[f"detrex_lite.{folder}"] = folder
    # tools/benchmark measures; it is for those who have the repository.
    inner = find_namespace_packages(folder, exclude=["*.output", "*.output.*", "benchmark", "benchmark.*"])
    packages += [f"detrex_lite.{folder}", *(f"detrex_lite.{folder}.{name}" for name in inner)]

setup(
    name="detrex-lite",
    version=VERSION,
    description="A modular toolkit of DETR-style detectors: shared blocks, lazy configs, nothing to compile",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages,
    package_dir=package_dir,
    entry_points={"console_scripts": ["detrex-lite = detrex_lite.cli:program"]},
    package_data={
        "detrex_lite": ["py.typed"],
        "detrex_lite.projects": ["*/README.md"],
        "detrex_lite.skeleton": ["templates/*.template"],
    },
    install_requires=[
        "torch>=2.4",  # models and kernels; fused AdamW on CPUs came with 2.4
        "torchvision>=0.19",  # ResNet backbones, image transforms and decoding
        "numpy>=1.24",  # packed annotations
        "scipy>=1.9",  # the assignment problem in matching
        "pycocotools>=2.0.7",  # COCO average precision and run-length masks
        "fvcore>=0.1.5.post20221221",  # learning rate multipliers
        "omegaconf>=2.3",  # config nodes, interpolation, YAML
        "pillow>=9.5",  # reading photographs, drawing detections
        "tqdm>=4.65",  # progress bars
        "safetensors>=0.4",  # checkpoints that cannot hold code
        "filelock>=3.8",  # processes that download one file
        "tensorboard>=2.12",  # training curves
        "matplotlib>=3.7",  # the font of labels in drawings
    ],
    extras_require={
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # a test process on each core
            "ruff==0.17.5",  # linter and formatter; pinned, so that a new rule never breaks an old commit
            "mypy>=1.11",  # type checker
            "pre-commit>=3.7",  # runs both before each commit
            "transformers>=5",  # independent detectors to test against
            "nbclient>=0.10",  # runs the notebooks in their test
            "ipykernel>=6.29",  # the Python that runs them
            "setuptools>=70.1",  # builds wheel and source distribution in their tests, without network
            FAST_EVAL,
            SHTAB,
            TIMM,
            *EXPORT,
            OPENVINO,
        ],
        "docs": [  # building the site: `make docs`
            "mkdocs-material>=9.7,<10",  # the generator's theme; its successor Zensical reads the same files
            "mkdocstrings[python]>=1.0",  # the API reference, from docstrings
            "latex2mathml>=3.78",  # formulas as MathML, which browsers draw without scripts
        ],
        "fast-eval": [FAST_EVAL],  # COCO average precision in C++
        "timm": [TIMM],  # optional backbones: Swin, ConvNeXt, plain vision transformers and the others that it has
        "export": EXPORT,  # writing ONNX: the format, its operators, and what runs a file to check it
        "runtime": [ONNXRUNTIME],  # running .onnx files
        "openvino": [OPENVINO],  # running OpenVINO's files; with `export`, writing them
        "results": ["pandas>=1.5", "supervision>=0.20"],  # detections as data frames, and as those of supervision
        "completion": [SHTAB],  # completion of command lines in bash, zsh and fish
        "wandb": ["wandb>=0.17"],  # optional log writer
        "mlflow": ["mlflow>=2.9"],  # another
    },
)
