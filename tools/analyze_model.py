"""Parameters and floating point operations of a config's model and of its parts.

    python tools/analyze_model.py projects/detr/configs/models/detr_r50.py
    python tools/analyze_model.py FILE model.num_queries=300 --height 640 --width 640 --json sizes.json

1 multiply-accumulate is 2 FLOPs; DETR papers write GFLOPs for multiply-accumulates.
"""

import argparse
import sys
from collections.abc import Sequence

from detrex_lite.config import ConfigError
from detrex_lite.tools.benchmark import BenchmarkError, analyze_config
from detrex_lite.tools.benchmark.report import require_writable, write_json


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="analyze_model.py"
    )
    parser.add_argument("config", metavar="CONFIG", help="a LazyConfig .py or .yaml file with a model")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config overrides")
    parser.add_argument("--height", type=int, default=800, help="of the image, in pixels; default: %(default)s")
    parser.add_argument("--width", type=int, default=1333, help="of the image, in pixels; default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write everything to this file too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_intermixed_args(argv)
    try:
        require_writable(arguments.json)
        analysis = analyze_config(arguments.config, arguments.overrides, height=arguments.height, width=arguments.width)
    except (BenchmarkError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(analysis)
    if arguments.json:
        write_json(arguments.json, analysis.as_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
