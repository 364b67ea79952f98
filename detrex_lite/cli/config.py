"""`detrex-lite config`."""

import argparse

from .arguments import add_trust_argument, split_words
from .train import add_data_arguments, check_model

NAME = "config"
SUMMARY = "Print a config with overrides applied and interpolations resolved, and check it."
DESCRIPTION = "Exit status: 0 when it is right, 2 when something is wrong with it."
EXAMPLES = (
    ("as a run would see it; `config dino` is the same", "projects/dino/configs/dino_r50_4scale_12ep.py"),
    ("what `detrex-lite train dino --data FOLDER` trains, as a file to change", "dino --data FOLDER > mine.yaml"),
    ("one part, with a change", "projects/dino/configs/dino_r50_4scale_12ep.py model.num_classes=3 --key model"),
)
RUN = "detrex_lite.commands.config.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="FILE | MODEL | KEY=VALUE",
        help="a Python or YAML config, also one that comes with the package, or a model as `detrex-lite train` takes; "
        "a.b=1 changes a key, +a.b=1 adds one, ~a.b deletes one",
    )
    add_data_arguments(parser)
    parser.add_argument("--format", choices=["yaml", "py"], default="yaml", help="default: %(default)s")
    parser.add_argument("--key", help="print this part alone, such as model or train.amp")
    add_trust_argument(parser)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    split_words(parser, args)
    args.config_file = None
    check_model(parser, args)
