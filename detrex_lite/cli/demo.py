"""`detrex-lite demo`."""

import argparse

from .arguments import add_override_argument, add_trust_argument

NAME = "demo"
SUMMARY = "Show everything once: draw a data set, train a small detector, evaluate it, show its detections."
DESCRIPTION = "Overrides of the config may follow: `detrex-lite demo train.max_epochs=10`."
EXAMPLES = (
    ("about six minutes on two CPU cores", ""),
    ("a detector that also predicts masks", "--masks"),
    ("a quick check that everything runs", "--quick"),
)
RUN = "detrex_lite.commands.demo.run"

CONFIG_FILE = "projects/dino/configs/dino_small_shapes.py"
CONFIG_FILE_OF_MASKS = "projects/maskdino/configs/maskdino_small_shapes.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="output/demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--config-file", metavar="FILE", help=f"default: {CONFIG_FILE}")
    parser.add_argument(
        "--masks", action="store_true", help=f"train a detector that also predicts masks: {CONFIG_FILE_OF_MASKS}"
    )
    parser.add_argument("--quick", action="store_true", help="a few images and steps, to check that everything runs")
    add_trust_argument(parser)
    add_override_argument(parser)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.masks and args.config_file:
        parser.error("--masks has its own config: omit --config-file")
    args.config_file = args.config_file or (CONFIG_FILE_OF_MASKS if args.masks else CONFIG_FILE)
