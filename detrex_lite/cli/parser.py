"""An argparse parser with the behaviour that all commands share."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import NoReturn

from ..errors import closest, printable_lines

WRONG_USE = 2  # the exit status of wrong arguments


class Parser(argparse.ArgumentParser):
    """A parser without abbreviated options, whose errors suggest similar options for unknown ones.

    Options and positional arguments may be mixed, unless the command has subcommands.

    Args:
        check: checks parsed arguments, and calls `error` when they do not go together.
        settings: keyword arguments of argparse's parser.
    """

    def __init__(
        self, *, check: Callable[[argparse.ArgumentParser, argparse.Namespace], None] | None = None, **settings: object
    ) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]
        self._check = check

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse a command line; wrong arguments end the program with status 2."""
        mixed = not any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in self._actions)
        read = self.parse_known_intermixed_args if mixed else self.parse_known_args
        args, unknown = read(list(arguments))
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")
        if self._check is not None:
            self._check(self, args)
        return args

    def error(self, message: str) -> NoReturn:
        """Print the message and a reference to the help, and end with status 2."""
        text = printable_lines(message)
        self.exit(WRONG_USE, f"{self.prog}: error: {text}\n`{self.prog} --help` shows what it takes.\n")

    def _hint(self, unknown: Sequence[str]) -> str:
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        words = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        hints = [f"{word}: did you mean {meant}?" for word in words if (meant := _meant(word, options))]
        return f" ({' '.join(hints)})" if hints else ""


# Options of other programs -> similar options of these commands, of which the first that a command has is suggested.
FOREIGN = {
    "--conf": ("--score-threshold",),
    "--conf-thres": ("--score-threshold",),
    "--threshold": ("--score-threshold",),
    "--imgsz": ("--size",),
    "--img-size": ("--size",),
    "--resolution": ("--size",),
    "--batch-size": ("--batch",),
    "--batch": ("--batch-size",),
    "--lr0": ("--lr",),
    "--learning-rate": ("--lr",),
    "--max-epochs": ("--epochs",),
    "--config": ("--config-file",),
    "--checkpoint": ("--weights",),
    "--ckpt": ("--weights",),
    "--source": ("PATH, without an option",),
    "--project": ("--output", "--out"),
    "--save-dir": ("--output", "--out"),
    "--output-dir": ("--output", "--out"),
    "--out": ("--output",),
    "--num-processes": ("--num-gpus",),
    "--gpus": ("--num-gpus",),
    "--dataset": ("--data",),
    "--dataset-dir": ("--data",),
    "--pretrained": ("--fine-tune",),
}


def _meant(word: str, options: Sequence[str]) -> str | None:
    known = [option for option in FOREIGN.get(word, ()) if option in options or not option.startswith("--")]
    return known[0] if known else closest(word, options)


def whole_number(least: int) -> Callable[[str], int]:
    """An argument type: whole numbers from `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {least}")
        return value

    return read


def number(above: float) -> Callable[[str], float]:
    """An argument type: finite numbers above a limit."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not above < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} must be a number above {above:g}")
        return value

    return read
