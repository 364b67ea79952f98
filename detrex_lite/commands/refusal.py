"""What commands do with errors after which nothing can be done."""

import sys

from ..cli.parser import WRONG_USE
from ..config import explain
from ..errors import printable_lines


def refuse(command: str, error: Exception | str, *, with_traceback: bool = False) -> int:
    """Print an error; returns the exit status of the command.

    Args:
        command: the name of the command.
        error: the error, or a message.
        with_traceback: whether to print the whole traceback first.
    """
    message = f"error: {error}" if isinstance(error, str) else explain(error, with_traceback=with_traceback)
    print(f"detrex-lite {command}: {printable_lines(message)}", file=sys.stderr)
    return WRONG_USE
