"""`detrex-lite config`."""

import argparse

from .arguments import add_trust_argument, split_words
from .train import add_data_arguments, check_model

NAME = "config"
SUMMARY = "Print a config with overrides applied, and check it."
DESCRIPTION = "Exit status: 0 when the config is valid, 2 when it is not."
EXAMPLES = (
    ("as a run uses it; `config dino` is the same", "projects/dino/configs/dino_r50_4scale_12ep.py"),
    (
        "the config of `detrex-lite train dino --data FOLDER`, as a file to edit",
        "dino --data FOLDER --unresolved > mine.yaml",
    ),
    ("one part, with a change", "projects/dino/configs/dino_r50_4scale_12ep.py model.num_classes=3 --key model"),
)
RUN = "detrex_lite.commands.config.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="FILE | MODEL | KEY=VALUE",
        help="a Python or YAML config, possibly one of the package, or a model as in `detrex-lite train`; a.b=1 "
        "changes a key, +a.b=1 adds one, ~a.b deletes one",
    )
    add_data_arguments(parser)
    parser.add_argument("--format", choices=["yaml", "py"], default="yaml", help="default: %(default)s")
    parser.add_argument("--key", help="print only this part, such as model or train.amp")
    parser.add_argument(
        "--unresolved", action="store_true", help="print references (${...}) instead of the values that they have now"
    )
    add_trust_argument(parser)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    split_words(parser, args)
    args.config_file = None
    check_model(parser, args)
