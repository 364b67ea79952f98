"""The commands, and what a module of this package declares about one."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

# In the order in which `detrex-lite --help` lists them. The module of a command has its name, with underscores.
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
    """What each command's module defines.

    Attributes:
        NAME: the word on the command line.
        SUMMARY: a line for the list of commands.
        DESCRIPTION: paragraphs for the help of the command, after the summary; may be "".
        EXAMPLES: the commonest uses: what each does, and its arguments.
        RUN: dotted name of the function that runs it: from parsed arguments to the exit status. The module of the
            function is imported when the arguments are right.
    """

    NAME: str
    SUMMARY: str
    DESCRIPTION: str
    EXAMPLES: Sequence[tuple[str, str]]
    RUN: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    # Where there is a function check(parser, args), it ends the program by `parser.error` when arguments do not go
    # together: whatever can be known without importing packages is refused there.


def find_command(name: str) -> Command:
    """The module of one of `COMMANDS`."""
    return cast(Command, import_module(f".{name.replace('-', '_')}", __package__))
