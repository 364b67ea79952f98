"""The names of the commands, and the interface of their modules."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

# In the order of `detrex-lite --help`. The module of a command has the same name, with underscores.
COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "export",
    "zoo",
    "check",
    "convert",
    "config",
    "new",
    "report",
    "benchmark",
    "average",
    "convert-checkpoint",
    "demo",
    "env",
    "completion",
)


class Command(Protocol):
    """The interface of each command's module.

    Attributes:
        NAME: the word on the command line.
        SUMMARY: a line for the list of commands.
        DESCRIPTION: paragraphs for the help of the command, after the summary; may be "".
        EXAMPLES: the most common uses: the purpose and the arguments of each.
        RUN: dotted name of the function that takes parsed arguments, runs the command and returns the exit status. Its
            module is imported after the arguments have been checked.
    """

    NAME: str
    SUMMARY: str
    DESCRIPTION: str
    EXAMPLES: Sequence[tuple[str, str]]
    RUN: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    # A module may also define check(parser, args), which calls `parser.error` when arguments do not go together. All
    # errors that can be found without importing packages are reported there.


def find_command(name: str) -> Command:
    """The module of one of `COMMANDS`."""
    return cast(Command, import_module(f".{name.replace('-', '_')}", __package__))
