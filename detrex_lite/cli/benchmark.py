"""`detrex-lite benchmark`."""

import argparse
from importlib.util import find_spec

NAME = "benchmark"
SUMMARY = "How fast models, operators and everything around them are, and how big models are."
DESCRIPTION = """
what is measured:
  model      latency of inference and training steps of configs' models, with random weights
  deploy     latency of one image on this CPU: eager, compiled and exported
  op         an operator by all its backends
  train      steps of a config on its own data, part by part
  loader     training images per second and core
  matcher    matching of a training step
  masks      matching and losses of masks
  eval       COCO evaluation
  analyze    parameters and floating point operations of a model and its parts
  projects   write the overview of projects/ anew

`detrex-lite benchmark model --help` and so on list the options. Threads are as torch sets them.
`--history FILE` keeps a line of each run, and compares with the last one on the same machine.
"""
EXAMPLES = (
    ("a model beside another implementation", "model projects/detr/configs/models/detr_r50.py --against transformers"),
    ("where the time of training steps goes", "train projects/detr/configs/detr_small_shapes.py"),
    ("parameters and operations", "analyze projects/dino/configs/models/dino_r50.py"),
)
RUN = "detrex_lite.tools.benchmark.commands.run"

# As in detrex_lite.tools.benchmark.commands, which imports torch; a test compares them.
MEASURED = ("model", "deploy", "op", "train", "loader", "matcher", "masks", "eval", "analyze", "projects")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=MEASURED, metavar="WHAT", help=", ".join(MEASURED))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of what is measured")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if find_spec("detrex_lite.tools.benchmark") is None:
        parser.error(
            "measuring comes with the repository and not with the installed package: clone it, and install it with "
            "`pip install -e .`"
        )
