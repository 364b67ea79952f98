"""The output folder of a run: made, and owned by one run at a time."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from ...checkpoint import CheckpointError
from ...config import ConfigError
from ...data import DatasetError

LOCK_FILE = ".lock"

# A file system without locks says one of these.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

logger = logging.getLogger(__name__)

_held: dict[int, Path] = {}  # the open lock files


def _let_go() -> None:
    """In a forked process, such as one that loads images: the lock ends with the process that took it."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class LostFolderError(OSError):
    """The folder of a run was removed while the run went on."""


def require_owned(output_dir: Path) -> None:
    """Make sure that the folder is still the one that this process owns, if it owns it: the main process does.

    Raises:
        LostFolderError: when it was removed, or its place was taken.
    """
    path = (output_dir / LOCK_FILE).absolute()
    for handle in [handle for handle, held in _held.items() if held == path]:
        mine = os.fstat(handle)
        try:
            there = path.stat()
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise LostFolderError(
                f"train.output_dir={output_dir} was removed or replaced while the run went on, which ends it: its "
                "checkpoints are gone with the folder. Start it anew; end a run before its folder is moved or removed"
            )


def make_output_dir(output_dir: Path) -> None:
    """Make the folder, with those that it is in.

    Raises:
        ConfigError: when that is impossible; the message names `train.output_dir`.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(output_dir, error) from error


@contextlib.contextmanager
def owned_output_dir(output_dir: Path) -> Iterator[None]:
    """Inside, no other run may write to the folder, which is made.

    The lock is the system's: it ends with this process, however that ends. Only the main process takes it.

    Raises:
        ConfigError: when another run owns the folder, with that run's machine and process, or the folder cannot be
            made or written to.
    """
    make_output_dir(output_dir)
    path = output_dir / LOCK_FILE
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise _unusable(output_dir, error) from error
    _held[handle] = path.absolute()
    try:
        _lock(handle, output_dir)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, since {since}".encode())
        try:
            yield
        finally:
            os.ftruncate(handle, 0)
    finally:
        del _held[handle]
        os.close(handle)


@contextlib.contextmanager
def removed_when_refused(output_dir: Path, *, written: Collection[str]) -> Iterator[None]:
    """Inside, a fault of config, checkpoint or data leaves no folder that was not there before.

    Args:
        output_dir: the folder; one that holds anything but `written` stays.
        written: names of files that are there whatever happens.
    """
    is_new = not output_dir.exists()
    try:
        yield
    except (ConfigError, CheckpointError, DatasetError):
        if is_new and output_dir.is_dir():
            names = {path.name for path in output_dir.iterdir()}
            if names <= set(written):
                for name in names:
                    (output_dir / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # another process has begun to write
                    output_dir.rmdir()
        raise


def _lock(handle: int, output_dir: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 1000).decode(errors="replace") or "another process"
        raise ConfigError(
            f"train.output_dir={output_dir} belongs to a run that has not ended: {owner}. Wait for it, end it, or "
            "choose another folder with train.output_dir=..."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise _unusable(output_dir, error) from error
        logger.warning(
            "The file system of train.output_dir=%s has no locks: a second run in this folder would not be noticed.",
            output_dir,
        )


def _unusable(output_dir: Path, error: OSError) -> ConfigError:
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):  # False where one must not look
        return ConfigError(f"train.output_dir={output_dir} is a file, not a folder")
    return ConfigError(f"train.output_dir={output_dir} cannot be used: {error.strerror or error} ({error.filename})")
