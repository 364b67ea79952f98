"""`detrex-lite benchmark`."""

import argparse
from importlib.util import find_spec

NAME = "benchmark"
SUMMARY = "Measure the speed of models, operators, data loading and evaluation, and the size of models."
DESCRIPTION = """
measurements:
  model      latency of inference and training steps of configs' models, with random weights
  deploy     latency of one image on this CPU: eager, compiled and exported
  op         all backends of an operator
  train      training steps of a config on its own data, by parts
  loader     training images per second and core
  matcher    matching of a training step
  masks      matching and losses of masks
  eval       COCO evaluation
  analyze    parameters and floating point operations of a model and its parts
  projects   rewrite the overview of projects/

`detrex-lite benchmark model --help` and so on list the options. The number of threads is torch's default.
`--history FILE` adds a line for each run, and compares with the last run on the same machine.
"""
EXAMPLES = (
    (
        "a model compared with another implementation",
        "model projects/detr/configs/models/detr_r50.py --against transformers",
    ),
    ("the times of the parts of training steps", "train projects/detr/configs/detr_small_shapes.py"),
    ("parameters and operations", "analyze projects/dino/configs/models/dino_r50.py"),
)
RUN = "detrex_lite.tools.benchmark.commands.run"

# The keys of `PARSERS` in detrex_lite.tools.benchmark.commands, which the wheel does not contain; a test compares them.
MEASURED = ("model", "deploy", "op", "train", "loader", "matcher", "masks", "eval", "analyze", "projects")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=MEASURED, metavar="WHAT", help=", ".join(MEASURED))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the measurement")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if find_spec("detrex_lite.tools.benchmark") is None:
        parser.error(
            "benchmarks are part of the repository, not of the installed package: clone the repository, and install "
            "it with `pip install -e .`"
        )
