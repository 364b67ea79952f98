"""The subcommands of `detrex-lite benchmark`: their parsers, and running them.

This module does not import torch, so that `--help` is quick: `measurements` is imported after parsing.
"""

import argparse
from importlib import import_module

from detrex_lite.cli.arguments import add_trust_argument
from detrex_lite.cli.parser import Parser

from .settings import (
    FILE_PRECISIONS,
    MODES,
    OTHERS,
    PRECISIONS,
    RUNTIMES,
    DeploySettings,
    MaskSettings,
    MatchingSettings,
    ModelSettings,
)

PROGRAM = "detrex-lite benchmark"


def model_parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} model",
        description="Latency of inference and training steps of configs' models, with random weights.",
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG | KEY=VALUE", help="config files, and overrides of all")
    for name in ("height", "width", "batch", "train-height", "train-width", "train-batch", "warmup"):
        default = getattr(ModelSettings, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--mode", default=",".join(MODES), help="of inference,train; default: %(default)s")
    parser.add_argument(
        "--precision", default="float32", help=f"of {','.join(PRECISIONS)} (autocast); default: %(default)s"
    )
    parser.add_argument("--compile", action="store_true", help="also measure after torch.compile")
    parser.add_argument("--against", metavar="NAME", help=f"another implementation: {', '.join(OTHERS)}")
    _add_common(parser)
    return parser


def deployment_parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} deploy",
        description="Latency of one image on this CPU: eager, compiled and exported, as a table in Markdown.",
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="CONFIG | NAME | KEY=VALUE",
        help="config files (random weights), published checkpoints, and overrides of all",
    )
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of the config")
    for name in ("height", "width", "warmup"):
        parser.add_argument(f"--{name}", type=int, default=getattr(DeploySettings, name), help="default: %(default)s")
    parser.add_argument("--formats", default=",".join(RUNTIMES), help="of onnx,openvino; default: %(default)s")
    parser.add_argument("--precision", default=",".join(FILE_PRECISIONS), help="default: %(default)s")
    parser.add_argument("--no-compile", action="store_true", help="do not measure torch.compile")
    parser.add_argument(
        "--against", default=DeploySettings.against, metavar="NAME", help=f"of {', '.join(OTHERS)}, or none"
    )
    _add_output(parser, repeats=DeploySettings.repeats)
    return parser


def training_parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} train",
        description="Steps of a config on its own data, with random weights, part by part: data, forward pass and the "
        "matching in it, backward pass, optimizer.",
    )
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--warmup", type=int, default=3, help="steps before; default: %(default)s")
    _add_common(parser, repeats=20, unit="steps")
    return parser


def loader_parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} loader",
        description="Training images per second and core; without a config, of synthetic photographs of 640x480 with "
        "DETR's augmentation.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="config whose dataloader.train is measured")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--images", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--epoch", type=int, default=0, help="epoch of the run, for augmentation; default: %(default)s")
    parser.add_argument(
        "--photographs", action="store_true", help="synthetic photographs instead of the config's data set"
    )
    _add_output(parser, repeats=5, unit="of each image")
    return parser


def matcher_parser() -> Parser:
    parser = Parser(prog=f"{PROGRAM} matcher", description="Matching of a training step.")
    for name in ("sets", "queries", "images", "objects", "classes"):
        parser.add_argument(f"--{name}", type=int, default=getattr(MatchingSettings, name), help="default: %(default)s")
    _add_common(parser, repeats=MatchingSettings.repeats)
    return parser


def masks_parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} masks", description="Time and memory of matching and losses of masks in a training step."
    )
    for name in ("sets", "queries", "images", "objects", "cells", "channels", "points"):
        parser.add_argument(f"--{name}", type=int, default=getattr(MaskSettings, name), help="default: %(default)s")
    _add_common(parser, repeats=MaskSettings.repeats)
    return parser


def evaluation_parser() -> Parser:
    parser = Parser(prog=f"{PROGRAM} eval", description="COCO evaluation, from the end of inference to the table.")
    parser.add_argument("--images", type=int, default=5000, help="default: %(default)s")
    parser.add_argument("--detections", type=int, default=100, help="per image; default: %(default)s")
    parser.add_argument("--backend", default="auto", help="of CocoEvaluator; default: %(default)s")
    _add_output(parser, repeats=1)
    return parser


def operator_parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} op", description="Times of all backends of an operator, compared with grid_sample."
    )
    parser.add_argument("operator", choices=["deformable_attention"])
    parser.add_argument(
        "--queries", default="encoder", help="a number, or 'encoder': one per cell; default: %(default)s"
    )
    parser.add_argument("--height", type=int, default=800, help="of the image; its levels have strides 8 to 64")
    parser.add_argument("--width", type=int, default=1066, help="of the image; default: %(default)s")
    parser.add_argument("--shapes", metavar="HxW,...", help="sizes of the levels, instead of --height and --width")
    for name, default in (("batch", 1), ("heads", 8), ("channels", 32), ("points", 4)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16; default: %(default)s")
    parser.add_argument("--backends", default="all", help="'all', or names separated by commas; default: %(default)s")
    parser.add_argument(
        "--bandwidth", type=float, help="memory bandwidth in TB/s, for the bound; default on a GPU: 4.3 (H200)"
    )
    _add_common(parser)
    return parser


def analysis_parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} analyze",
        description="Parameters and floating point operations of a config's model and of its parts. 1 "
        "multiply-accumulate is 2 FLOPs; the GFLOPs of DETR papers are multiply-accumulates.",
    )
    parser.add_argument("config", metavar="CONFIG", help="a LazyConfig .py or .yaml file with a model")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--height", type=int, default=800, help="of the image, in pixels; default: %(default)s")
    parser.add_argument("--width", type=int, default=1333, help="of the image, in pixels; default: %(default)s")
    _add_json(parser)
    return parser


def overview_parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} projects",
        description="Write projects/README.md: a table of all projects, and a picture of their blocks.",
    )
    _add_json(parser)
    return parser


def _add_common(parser: argparse.ArgumentParser, *, repeats: int = 10, unit: str = "rounds") -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...; default: a GPU when there is one")
    _add_output(parser, repeats=repeats, unit=unit)


def _add_output(parser: argparse.ArgumentParser, *, repeats: int, unit: str = "rounds") -> None:
    parser.add_argument("--repeats", type=int, default=repeats, help=f"{unit}; default: %(default)s")
    _add_json(parser)
    parser.add_argument("--history", metavar="FILE", help="append the medians to this file, and compare")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="also write the whole report to this file")


PARSERS = {
    "model": model_parser,
    "deploy": deployment_parser,
    "op": operator_parser,
    "train": training_parser,
    "loader": loader_parser,
    "matcher": matcher_parser,
    "masks": masks_parser,
    "eval": evaluation_parser,
    "analyze": analysis_parser,
    "projects": overview_parser,
}


def run(chosen: argparse.Namespace) -> int:
    """Run a measurement; see `detrex_lite.cli.benchmark`."""
    parser = PARSERS[chosen.what]()
    add_trust_argument(parser)
    arguments = parser.parse(chosen.arguments)
    measurements = import_module("detrex_lite.tools.benchmark.measurements")
    return measurements.run(chosen.what, arguments)
