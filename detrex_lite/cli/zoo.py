"""`detrex-lite zoo`."""

import argparse

from .arguments import add_trust_argument
from .parser import Parser

NAME = "zoo"
SUMMARY = "List, download and evaluate published checkpoints."
DESCRIPTION = """
NAME is the name of a checkpoint, of a project, or "all". Exit status: 0 when everything was done, 1 when something
failed (it is reported, and the rest is done), 2 when nothing could be done.
"""
EXAMPLES = (
    ("all; `zoo list dino` those of a project, `zoo list NAME` all about one", "list"),
    ("into the cache, and print the path", "download dino_r50_4scale_12ep"),
    ("measure AP beside the published one", "evaluate dino_r50_4scale_12ep --opts train.device=cuda"),
)
RUN = "detrex_lite.commands.zoo.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--table", action="append", default=[], metavar="FILE", help="a further table of checkpoints; may be repeated"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    command = commands.add_parser("list", help="show what there is")
    command.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    command = commands.add_parser("download", help="download files into the cache and print their paths")
    command.add_argument("names", nargs="+", metavar="NAME")
    command = commands.add_parser("evaluate", help="measure box AP, and write it beside the published one")
    command.add_argument("names", nargs="+", metavar="NAME")
    command.add_argument("--output", default="output/zoo", metavar="DIR", help="default: %(default)s")
    command.add_argument("--weights", metavar="FILE", help="a file in place of the download, for a single NAME")
    add_trust_argument(command)
    command.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the configs")
