"""How fast models and operators are, in turns with other implementations of them.

    python tools/benchmark.py model projects/detr/configs/models/detr_r50.py --against transformers
    python tools/benchmark.py op deformable_attention --backends all

`python tools/benchmark.py model --help` and `... op --help` list the options. Threads are as torch sets them.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from detrex_lite.benchmark import BenchmarkError, ModelSettings, benchmark_models
from detrex_lite.benchmark.contenders import OTHERS
from detrex_lite.benchmark.deformable_attention import H200_BANDWIDTH, benchmark_deformable_attention
from detrex_lite.benchmark.machine import choose_device
from detrex_lite.benchmark.models import MODES, PRECISIONS
from detrex_lite.benchmark.operator_inputs import OperatorSettings, parse_shapes, pyramid
from detrex_lite.benchmark.report import require_writable, write_json
from detrex_lite.config import ConfigError


def model_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark.py model",
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
    parser.add_argument("--compile", action="store_true", help="after torch.compile too")
    parser.add_argument("--against", metavar="NAME", help=f"another implementation: {', '.join(OTHERS)}")
    _add_common(parser)
    return parser


def operator_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark.py op", description="Times of an operator by all its backends, beside grid_sample's."
    )
    parser.add_argument("operator", choices=["deformable_attention"])
    parser.add_argument(
        "--queries", default="encoder", help="a number, or 'encoder': one per cell; default: %(default)s"
    )
    parser.add_argument("--height", type=int, default=800, help="of the image, for levels of strides 8 to 64")
    parser.add_argument("--width", type=int, default=1066, help="of the image; default: %(default)s")
    parser.add_argument("--shapes", metavar="HxW,...", help="of the levels, in place of --height and --width")
    for name, default in (("batch", 1), ("heads", 8), ("channels", 32), ("points", 4)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16; default: %(default)s")
    parser.add_argument("--backends", default="all", help="'all', or names with commas; default: %(default)s")
    parser.add_argument("--bandwidth", type=float, help="of the memory in TB/s, for the bound; on a GPU 4.3 (H200)")
    _add_common(parser)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...; default: a GPU when there is one")
    parser.add_argument("--repeats", type=int, default=10, help="rounds of one run of every side; default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write everything to this file too")


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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _queries(text: str) -> int | None:
    if text == "encoder":
        return None
    if not text.isdecimal():
        raise BenchmarkError(f"queries must be a number or 'encoder', got {text!r}")
    return int(text)


COMMANDS = {"model": (model_parser, _measure_models), "op": (operator_parser, _measure_operator)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmark.py"
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    chosen = parser.parse_args(argv)
    command_parser, measure = COMMANDS[chosen.command]
    arguments = command_parser().parse_intermixed_args(chosen.arguments)
    try:
        require_writable(arguments.json)
        report = measure(arguments)
    except (BenchmarkError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report)
    if arguments.json:
        write_json(arguments.json, report.as_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
