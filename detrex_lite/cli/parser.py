"""argparse's parser with the manners that all commands share."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from ..errors import closest, printable

WRONG_USE = 2  # the exit status of wrong arguments


class Parser(argparse.ArgumentParser):
    """Never takes the beginning of an option for the option, and names the option that an unknown one resembles.

    Options and other arguments may be mixed, unless the command has commands of its own.
    """

    def __init__(self, **settings: object) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Read a command line; wrong arguments end the program with status 2."""
        mixed = not any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in self._actions)
        read = self.parse_known_intermixed_args if mixed else self.parse_known_args
        args, unknown = read(list(arguments))
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")
        return args

    def error(self, message: str) -> NoReturn:
        """Print the message, where the help is, and end with status 2."""
        text = "\n".join(printable(line) for line in message.splitlines())
        self.exit(WRONG_USE, f"{self.prog}: error: {text}\n`{self.prog} --help` shows what it takes.\n")

    def _hint(self, unknown: Sequence[str]) -> str:
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        words = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        hints = [f"{word}: did you mean {meant}?" for word in words if (meant := _meant(word, options))]
        return f" ({' '.join(hints)})" if hints else ""


# What other programs call options of these; the first that a command has is meant.
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
    "--project": ("--output",),
    "--save-dir": ("--output",),
    "--output-dir": ("--output",),
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
