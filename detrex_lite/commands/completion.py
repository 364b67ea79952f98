"""Completion of command lines in shells."""

import argparse
from collections.abc import Iterable
from typing import Any

from ..cli.models import shipped_names
from ..cli.program import parser_of, whole_parser
from ..cli.registry import COMMANDS, find_command
from ..zoo import load_zoo
from .refusal import refuse

INSTALL = "pip install 'detrex-lite[completion]'"
FILES, FOLDERS = ("FILE", "PATH", "FILE | MODEL | KEY=VALUE"), ("DIR", "FOLDER")


def run(args: argparse.Namespace) -> int:
    """Print the completion script; see `detrex_lite.cli.completion`."""
    try:
        import shtab
    except ImportError:
        return refuse("completion", f"shtab is not installed: {INSTALL}")
    print(shtab.complete(described_parser(shtab.FILE, shtab.DIRECTORY), shell=args.shell))
    return 0


def described_parser(file: Any, folder: Any) -> argparse.ArgumentParser:
    """The parser of the whole program, with marks on its arguments that tell shtab how to complete them.

    Args:
        file, folder: shtab's marks for arguments that are files and folders.
    """
    parser = whole_parser()
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=argparse.ArgumentParser)
    models, checkpoints = shipped_names().all(), sorted(load_zoo())
    for name in COMMANDS:
        command = parser_of(name)
        _mark(command, models, checkpoints, file, folder)
        commands.add_parser(name, help=find_command(name).SUMMARY, parents=[command], add_help=False)
    return parser


def _mark(
    parser: argparse.ArgumentParser, models: list[str], checkpoints: Iterable[str], file: Any, folder: Any
) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _mark(inner, models, checkpoints, file, folder)
        elif action.choices is not None:
            continue
        elif action.dest == "words":
            action.choices = models
        elif action.dest in ("names", "fine_tune") or (action.dest == "model" and action.option_strings):
            action.choices = list(checkpoints)
        elif action.metavar in FILES or action.dest in ("file", "paths"):
            action.complete = file  # type: ignore[attr-defined]
        elif action.metavar in FOLDERS or action.dest == "folder":
            action.complete = folder  # type: ignore[attr-defined]
