"""The subcommands of `detrex-lite benchmark`: a parser and a function for each measurement."""

import argparse
import sys
from typing import Any

from detrex_lite.cli.arguments import add_trust_argument
from detrex_lite.cli.parser import Parser
from detrex_lite.config import ConfigError, explain, trust
from detrex_lite.data import DatasetError
from detrex_lite.evaluation.backends import AUTO, BACKENDS

from . import BenchmarkError, ModelSettings, analyze_config, benchmark_models
from .contenders import OTHERS
from .deformable_attention import H200_BANDWIDTH, benchmark_deformable_attention
from .deployment import PRECISIONS as DEPLOYED_IN
from .deployment import RUNTIMES, DeploySettings, benchmark_deployment
from .evaluation import benchmark_evaluation
from .history import append_to_history
from .loader import benchmark_loader
from .machine import choose_device
from .masks import MaskSettings, benchmark_masks
from .matching import MatchingSettings, benchmark_matching
from .models import MODES, PRECISIONS
from .operator_inputs import OperatorSettings, parse_shapes, pyramid
from .overview import write_overview
from .report import require_writable, write_json
from .training import benchmark_training

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
    parser.add_argument("--precision", default=",".join(DEPLOYED_IN), help="default: %(default)s")
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
    parser.add_argument("--backend", default=AUTO, choices=[AUTO, *BACKENDS], help="default: %(default)s")
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


def _measure_models(arguments: argparse.Namespace) -> Any:
    overrides = [text for text in arguments.configs if "=" in text or text.startswith("~")]
    files = [text for text in arguments.configs if text not in overrides]
    settings = ModelSettings(
        height=arguments.height,
        width=arguments.width,
        batch=arguments.batch,
        train_height=arguments.train_height,
        train_width=arguments.train_width,
        train_batch=arguments.train_batch,
        modes=_names(arguments.mode),
        precisions=_names(arguments.precision),
        compile=arguments.compile,
        repeats=arguments.repeats,
        warmup=arguments.warmup,
        against=arguments.against,
    )
    device = choose_device(arguments.device)
    return benchmark_models(files, overrides, settings, device, log=lambda line: print(line, file=sys.stderr))


def _measure_deployment(arguments: argparse.Namespace) -> Any:
    overrides = [text for text in arguments.models if "=" in text or text.startswith("~")]
    settings = DeploySettings(
        height=arguments.height,
        width=arguments.width,
        formats=_names(arguments.formats),
        precisions=_names(arguments.precision),
        compile=not arguments.no_compile,
        repeats=arguments.repeats,
        warmup=arguments.warmup,
        against=None if arguments.against == "none" else arguments.against,
    )
    return benchmark_deployment(
        [text for text in arguments.models if text not in overrides],
        overrides,
        settings,
        weights=arguments.weights,
        log=lambda line: print(line, file=sys.stderr),
    )


def _measure_operator(arguments: argparse.Namespace) -> Any:
    device = choose_device(arguments.device)
    bandwidth = arguments.bandwidth
    settings = OperatorSettings(
        shapes=parse_shapes(arguments.shapes) if arguments.shapes else pyramid(arguments.height, arguments.width),
        queries=_queries(arguments.queries),
        batch=arguments.batch,
        heads=arguments.heads,
        channels=arguments.channels,
        points=arguments.points,
        dtype=arguments.dtype,
        backends=_names(arguments.backends),
        repeats=arguments.repeats,
        bandwidth=H200_BANDWIDTH if bandwidth is None and device.type == "cuda" else bandwidth,
    )
    return benchmark_deformable_attention(settings, device)


def _measure_training(arguments: argparse.Namespace) -> Any:
    device = choose_device(arguments.device)
    return benchmark_training(
        arguments.config, arguments.overrides, device, repeats=arguments.repeats, warmup=arguments.warmup
    )


def _measure_loader(arguments: argparse.Namespace) -> Any:
    return benchmark_loader(
        arguments.config,
        arguments.overrides,
        images=arguments.images,
        repeats=arguments.repeats,
        epoch=arguments.epoch,
        photographs=arguments.photographs,
    )


def _measure_matching(arguments: argparse.Namespace) -> Any:
    settings = MatchingSettings(
        sets=arguments.sets,
        queries=arguments.queries,
        images=arguments.images,
        objects=arguments.objects,
        classes=arguments.classes,
        repeats=arguments.repeats,
    )
    return benchmark_matching(settings, choose_device(arguments.device))


def _measure_masks(arguments: argparse.Namespace) -> Any:
    settings = MaskSettings(
        sets=arguments.sets,
        queries=arguments.queries,
        images=arguments.images,
        objects=arguments.objects,
        cells=arguments.cells,
        channels=arguments.channels,
        points=arguments.points,
        repeats=arguments.repeats,
    )
    return benchmark_masks(settings, choose_device(arguments.device))


def _measure_evaluation(arguments: argparse.Namespace) -> Any:
    return benchmark_evaluation(
        images=arguments.images,
        detections=arguments.detections,
        repeats=arguments.repeats,
        backend=arguments.backend,
    )


def _analyze(arguments: argparse.Namespace) -> Any:
    return analyze_config(arguments.config, arguments.overrides, height=arguments.height, width=arguments.width)


def _overview(arguments: argparse.Namespace) -> Any:
    return write_overview()


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _queries(text: str) -> int | None:
    if text == "encoder":
        return None
    if not text.isdecimal():
        raise BenchmarkError(f"queries must be a number or 'encoder', got {text!r}")
    return int(text)


COMMANDS = {
    "model": (model_parser, _measure_models),
    "deploy": (deployment_parser, _measure_deployment),
    "op": (operator_parser, _measure_operator),
    "train": (training_parser, _measure_training),
    "loader": (loader_parser, _measure_loader),
    "matcher": (matcher_parser, _measure_matching),
    "masks": (masks_parser, _measure_masks),
    "eval": (evaluation_parser, _measure_evaluation),
    "analyze": (analysis_parser, _analyze),
    "projects": (overview_parser, _overview),
}


def run(chosen: argparse.Namespace) -> int:
    """Run a measurement; see `detrex_lite.cli.benchmark`."""
    command_parser, measure = COMMANDS[chosen.what]
    parser = command_parser()
    add_trust_argument(parser)
    arguments = parser.parse(chosen.arguments)
    try:
        trust(*arguments.trust)
        history = getattr(arguments, "history", None)  # only commands that measure time have --history
        for path in (arguments.json, history):
            require_writable(path)
        report = measure(arguments)
        print(report)
        if history:
            print("\n" + append_to_history(history, chosen.what, report.as_json()))
    except (BenchmarkError, ConfigError, DatasetError) as error:
        print(explain(error), file=sys.stderr)
        return 2
    if arguments.json:
        write_json(arguments.json, report.as_json())
    return 0
