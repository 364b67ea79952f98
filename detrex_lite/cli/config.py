"""`detrex-lite config`."""

import argparse

from .arguments import add_trust_argument

NAME = "config"
SUMMARY = "Print a config with overrides applied and interpolations resolved, and check it."
DESCRIPTION = "Exit status: 0 when it is right, 2 when something is wrong with it."
EXAMPLES = (
    ("as a run would see it", "projects/dino/configs/dino_r50_4scale_12ep.py"),
    ("one part, with a change", "projects/dino/configs/dino_r50_4scale_12ep.py model.num_classes=3 --key model"),
    ("as Python", "output/config.yaml --format py"),
)
RUN = "detrex_lite.commands.config.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a Python or YAML config; also one that comes with the package")
    parser.add_argument("overrides", nargs="*", help="a.b=1 changes a key, +a.b=1 adds one, ~a.b deletes one")
    parser.add_argument("--format", choices=["yaml", "py"], default="yaml", help="default: %(default)s")
    parser.add_argument("--key", help="print this part alone, such as model or train.amp")
    add_trust_argument(parser)
