"""Creates the output folder of a run, and locks it for one run at a time."""

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

# A file system without locks reports one of these errors.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

logger = logging.getLogger(__name__)

_held: dict[int, Path] = {}  # the open lock files, by their handles


def _release_locks() -> None:
    """Close the lock files in a forked process, such as a worker, so that locks end with the process that took them."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_release_locks)


class LostFolderError(OSError):
    """The folder of a run was removed or replaced during the run."""


def require_owned(output_dir: Path) -> None:
    """Make sure that the folder which this process has locked still exists. Only the main process holds a lock.

    Raises:
        LostFolderError: when the folder was removed or replaced by another one.
    """
    path = (output_dir / LOCK_FILE).absolute()
    for handle in [handle for handle, held in _held.items() if held == path]:
        locked = os.fstat(handle)
        try:
            current = path.stat()
        except OSError:
            current = None
        if current is None or (current.st_dev, current.st_ino) != (locked.st_dev, locked.st_ino):
            raise LostFolderError(
                f"train.output_dir={output_dir} was removed or replaced while the run went on, which ends it: its "
                "checkpoints are gone with the folder. Start it again; end a run before its folder is moved or removed"
            )


def make_output_dir(output_dir: Path) -> None:
    """Create the folder and its parents.

    Raises:
        ConfigError: when the folder cannot be created; the message names `train.output_dir`.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(output_dir, error) from error


@contextlib.contextmanager
def owned_output_dir(output_dir: Path) -> Iterator[None]:
    """Create the folder, and lock it against other runs inside this context.

    The lock belongs to the operating system, which releases it when this process ends for whatever reason. Only the
    main process takes it.

    Raises:
        ConfigError: when another run has locked the folder (the message names its machine and process), or when the
            folder cannot be created or written to.
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
    """Inside this context, an error in the config, checkpoint or data removes the folder if it is new.

    Args:
        output_dir: the folder; it is kept when it holds other files than `written`.
        written: the names of files that every run writes first, such as its log.
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
                with contextlib.suppress(OSError):  # another process has started to write
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
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):  # False without permission to look
        return ConfigError(f"train.output_dir={output_dir} is a file, not a folder")
    return ConfigError(f"train.output_dir={output_dir} cannot be used: {error.strerror or error} ({error.filename})")
