"""The log of a run, which goes to the terminal and to `log.txt` in its folder."""

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
"""`extra` of a record that is written to the file only, because the terminal shows it in another form."""

FORMAT = "%(asctime)s %(levelname)s %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


class _Terminal(logging.Handler):
    """Writes to standard error, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def run_logging(output_dir: Path) -> Iterator[None]:
    """Inside this context, the package's log goes to the terminal and is appended to `output_dir/log.txt`.

    Processes other than the main one log warnings and errors only, to the terminal and to `log.rank<number>.txt`, which
    is created with the first of them. Nothing is added to the terminal when a program has set up logging itself.
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
    """Inside this context, the package's log goes to the terminal, unless a program has set up logging itself."""
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
