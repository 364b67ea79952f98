"""The entry point: finds and runs the command that a command line names."""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

import detrex_lite

from ..errors import did_you_mean
from .parser import WRONG_USE, Parser
from .registry import COMMANDS, Command, find_command

NAME = "detrex-lite"
DESCRIPTION = "Detectors of the DETR family: train them on your images, evaluate, analyse, export and run them."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command and its arguments; None for those of this process.

    Returns:
        The exit status: 0 for success, 1 for partial success or when faults were found, 2 for wrong use or failure,
        128 + the signal's number after a signal.

    Raises:
        SystemExit: with status 2 for wrong arguments, and with status 0 after help.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        whole_parser().print_help(sys.stderr)
        return WRONG_USE
    if words[0] not in COMMANDS:
        return _no_command(words)
    command = find_command(words[0])
    parser = parser_of(words[0])
    args = parser.parse(words[1:])
    module, _, function = command.RUN.rpartition(".")
    run = getattr(import_module(module), function)
    if signal.getsignal(signal.SIGINT) is _leave_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run(args)


def program(*words: str) -> int:
    """Run `main` with `words` and the arguments of this process, after setting up signals and threads of a program.

    Returns:
        The exit status.
    """
    signal.signal(signal.SIGINT, _leave_at_once)
    if os.getcwd() not in sys.path:  # as for `python -m`: a config may name classes of a package in this folder
        sys.path.append(os.getcwd())
    # Must be set before torch starts its threads, which by default wait for each other in long busy loops. While
    # another program used one of two cores, steps on a CPU took 10 times as long as on an idle machine with the
    # default, and 4 times as long with short loops, which cost nothing on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        return main([*words, *sys.argv[1:]])
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # as in `detrex-lite zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout at exit
        return 128 + signal.SIGPIPE


def parser_of(name: str) -> Parser:
    """The parser of one of `COMMANDS`."""
    command = find_command(name)
    parser = Parser(
        prog=f"{NAME} {name}",
        description=_description(command),
        epilog=command.DESCRIPTION.strip() or None,
        check=getattr(command, "check", None),
    )
    command.add_arguments(parser)
    return parser


def whole_parser() -> Parser:
    """The parser of the arguments before the command; its help lists the commands."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {find_command(name).SUMMARY}" for name in COMMANDS)
    parser = Parser(
        prog=NAME,
        usage=f"{NAME} COMMAND ...",
        description=f"{DESCRIPTION}\n\ncommands:\n{listed}",
        epilog=f"`{NAME} COMMAND --help` shows the options of a command, and examples.",
    )
    parser.add_argument("--version", action="version", version=f"{NAME} {detrex_lite.__version__}")
    return parser


def _no_command(words: Sequence[str]) -> int:
    """Handle a command line without a valid command: --help, --version, or an error."""
    parser = whole_parser()
    if not words[0].startswith("-"):
        parser.error(f"there is no command {words[0]!r}{did_you_mean(words[0], COMMANDS)}")
    parser.parse(words)
    parser.error(f"no command: {' '.join(words)}")


def _description(command: Command) -> str:
    examples = [f"  # {purpose}\n  {NAME} {command.NAME} {words}".rstrip() for purpose, words in command.EXAMPLES]
    return "\n".join([command.SUMMARY, "", "examples:", *examples])


def _leave_at_once(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C while packages are imported, which takes seconds."""
    os.write(2, b"Interrupted before anything began.\n")
    os._exit(128 + number)
