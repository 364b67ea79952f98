"""`detrex-lite zoo`."""

import argparse

from .arguments import add_trust_argument
from .parser import Parser

NAME = "zoo"
SUMMARY = "List, download and evaluate published checkpoints."
DESCRIPTION = """
NAME is the name of a checkpoint, of a project, or "all". Exit status: 0 when all succeeded, 1 when some failed (they
are reported, and the rest is processed), 2 when nothing could be done.
"""
EXAMPLES = (
    ("all; `zoo list dino` lists those of a project, `zoo list NAME` describes one", "list"),
    ("download a file into the cache, and print its path", "download dino_r50_4scale_12ep"),
    ("measure AP, and compare it with the published value", "evaluate dino_r50_4scale_12ep --opts train.device=cuda"),
)
RUN = "detrex_lite.commands.zoo.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="FILE",
        help="an additional table of checkpoints; may be repeated",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    command = commands.add_parser("list", help="list checkpoints")
    command.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    command = commands.add_parser("download", help="download files into the cache and print their paths")
    command.add_argument("names", nargs="+", metavar="NAME")
    command = commands.add_parser("evaluate", help="measure box AP, and compare it with the published value")
    command.add_argument("names", nargs="+", metavar="NAME")
    command.add_argument("--output", default="output/zoo", metavar="DIR", help="default: %(default)s")
    command.add_argument("--weights", metavar="FILE", help="a file instead of the download, for a single NAME")
    add_trust_argument(command)
    command.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the configs")
