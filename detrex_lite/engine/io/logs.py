"""The log of a run: to the terminal and to `log.txt` in its folder."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from ... import distributed
from .folder import make_output_dir

LOG_FILE = "log.txt"
FILE_ONLY = {"file_only": True}
"""`extra` of a record that is not for the terminal, because it is shown there in another way."""

FORMAT = "%(asctime)s %(levelname)s %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


class _Terminal(logging.Handler):
    """Writes to standard error above a progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def run_logging(output_dir: Path) -> Iterator[None]:
    """Inside, the package's log goes to the terminal and is appended to `output_dir/log.txt`.

    Processes other than the main one show warnings and errors only, and write them to `log.rank<number>.txt`, which is
    not made without any. Where a program has set up logging itself, the terminal is left to it.
    """
    package = logging.getLogger("detrex_lite")
    level, handlers = package.level, []
    if not logging.getLogger().handlers:
        handlers.append(_terminal())
    make_output_dir(output_dir)
    if distributed.is_main_process():
        handlers.append(logging.FileHandler(output_dir / LOG_FILE, encoding="utf-8"))
    else:
        name = f"log.rank{distributed.rank()}.txt"
        handlers.append(logging.FileHandler(output_dir / name, encoding="utf-8", delay=True))
        handlers[-1].setLevel(logging.WARNING)
    handlers[-1].setFormatter(logging.Formatter(FORMAT, TIME_FORMAT))
    package.setLevel(logging.INFO)
    for handler in handlers:
        package.addHandler(handler)
    try:
        yield
    finally:
        package.setLevel(level)
        for handler in handlers:
            package.removeHandler(handler)
            handler.close()


@contextlib.contextmanager
def terminal_logging() -> Iterator[None]:
    """Inside, the package's log goes to the terminal, unless a program has set up logging itself."""
    package = logging.getLogger("detrex_lite")
    level, handler = package.level, None if logging.getLogger().handlers else _terminal()
    package.setLevel(logging.INFO)
    if handler is not None:
        package.addHandler(handler)
    try:
        yield
    finally:
        package.setLevel(level)
        if handler is not None:
            package.removeHandler(handler)


def _terminal() -> logging.Handler:
    handler = _Terminal()
    handler.addFilter(lambda record: not getattr(record, "file_only", False))
    prefix = ""
    if not distributed.is_main_process():
        handler.setLevel(logging.WARNING)
        prefix = f"process {distributed.rank()}: "
    handler.setFormatter(logging.Formatter(prefix + "%(message)s"))
    return handler
