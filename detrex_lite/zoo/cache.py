"""The folder of downloaded checkpoints."""

import os
from pathlib import Path
from typing import NamedTuple

from ..checkpoint import DownloadError, download, hash_file, verify_file
from .entry import ZooEntry, ZooError

CACHE_VARIABLE = "DETREX_CACHE"
DEFAULT_CACHE = "~/.cache/detrex_lite"
OWN_FILE = "a file that you have can be given instead: --weights FILE, or weights= in Python"


class Checkpoint(NamedTuple):
    """A file that is there and was checked."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "Checkpoint":
        """A user's own file.

        Raises:
            ZooError: when there is none.
        """
        if not Path(path).is_file():
            raise ZooError(f"there is no file {Path(path).absolute()}")
        return cls(Path(path), hash_file(path))


def cache_folder() -> Path:
    """Where checkpoints are kept: below the folder that the variable DETREX_CACHE names, or ~/.cache/detrex_lite."""
    return Path(os.path.expanduser(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE)) / "checkpoints"


def cached_path(entry: ZooEntry) -> Path:
    """Where the file of an entry is or will be."""
    return cache_folder() / entry.file_name


def obtain(entry: ZooEntry) -> Checkpoint:
    """The file of an entry, downloaded unless it is in the cache.

    Raises:
        ZooError: when it cannot be had; the message says what to do.
    """
    path = cached_path(entry)
    if not entry.url and not path.is_file():
        raise ZooError(
            f"{entry.name} is published at {entry.page}, which a person must open: download the file there and save it "
            f"as {path}; {OWN_FILE}"
        )
    try:
        if not entry.url:
            return Checkpoint(path, verify_file(path, sha256=entry.sha256))
        return Checkpoint(path, download(entry.url, path, sha256=entry.sha256))
    except DownloadError as error:
        raise ZooError(
            f"{entry.name}: {error}.\nThe file belongs to {path} ({CACHE_VARIABLE} names another folder for all); "
            f"{entry.source} tells about it. Without a network, copy it there from another machine; {OWN_FILE}"
        ) from error
