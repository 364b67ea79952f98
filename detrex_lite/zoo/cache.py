"""The folder of downloaded checkpoints."""

import os
from pathlib import Path
from typing import NamedTuple

from ..checkpoint import DownloadError, download, hash_file, verify_file
from .entry import ZooEntry, ZooError

CACHE_VARIABLE = "DETREX_CACHE"
DEFAULT_CACHE = "~/.cache/detrex_lite"
OWN_FILE = "to use a file that you have, pass --weights FILE (train: --fine-tune FILE), or weights= in Python"


class Checkpoint(NamedTuple):
    """An existing file that was verified."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "Checkpoint":
        """Create a checkpoint from a user's file.

        Raises:
            ZooError: when there is none.
        """
        if not Path(path).is_file():
            raise ZooError(f"there is no file {Path(path).absolute()}")
        return cls(Path(path), hash_file(path))


def cache_folder() -> Path:
    """Return the folder of checkpoints: in the folder of the variable DETREX_CACHE, or ~/.cache/detrex_lite."""
    return Path(os.path.expanduser(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE)) / "checkpoints"


def cached_path(entry: ZooEntry) -> Path:
    """Return the path of an entry's file, whether or not it exists."""
    return cache_folder() / entry.file_name


def obtain(entry: ZooEntry) -> Checkpoint:
    """Return the file of an entry, and download it unless it is in the cache.

    Raises:
        ZooError: when it is not available; the message says what to do.
    """
    path = cached_path(entry)
    if not entry.url and not path.is_file():
        raise ZooError(
            f"{entry.name} is published at {entry.page}, which must be opened in a browser: download the file "
            f"there and save it as {path}; {OWN_FILE}"
        )
    try:
        if not entry.url:
            return Checkpoint(path, verify_file(path, sha256=entry.sha256))
        return Checkpoint(path, download(entry.url, path, sha256=entry.sha256))
    except DownloadError as error:
        raise ZooError(
            f"{entry.name}: {error}.\nThe file belongs at {path} ({CACHE_VARIABLE} sets another folder for all files); "
            f"{entry.source} describes it. Without a network, copy it there from another machine; {OWN_FILE}"
        ) from error
