"""Downloading checkpoint files: downloads are resumed after interruptions, verified, and completed atomically.

Existing libraries do not fit: torch.hub and pooch cannot resume a download, pooch cannot verify a prefix of a hash, and
huggingface_hub supports only its own server.
"""

import contextlib
import errno
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from tqdm import tqdm

from .files import CheckpointError, replace_text

logger = logging.getLogger(__name__)

CHUNK = 2**18  # bytes
PATIENCE = 30.0  # seconds without receiving a byte
ATTEMPTS = 4  # consecutive attempts without receiving a byte
WAIT = 1.0  # seconds to wait after the first of them; doubled each time
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
SHA256 = re.compile(r"[0-9a-f]{8,64}")
BEGINNING_OF_HTML = re.compile(rb"\s*<(!doctype|html|head)", re.IGNORECASE)


class DownloadError(CheckpointError):
    """A file could not be downloaded, or is not the published one."""


def download(url: str, path: str | os.PathLike[str], *, sha256: str = "", patience: float = PATIENCE) -> str:
    """Download the file at `url` to `path`, unless it exists already, and verify it.

    Partially received data is kept next to `path`, and the download resumes if the server still has the same file
    (by its ETag or date). Of several processes, one downloads and the others wait for it.

    Args:
        url: an http or https address.
        path: where the file is saved; missing folders are created.
        sha256: its SHA-256 in hexadecimal digits, or a prefix of it; see `verify_file` for "".
        patience: seconds to wait for a byte.

    Returns:
        The SHA-256 of the file.

    Raises:
        DownloadError: when there is no connection, no such file, a web page instead, too little disk space, or when the
            file is not the published one.
    """
    path = Path(path)
    if not path.is_file():
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.is_file():  # another process may have downloaded it in the meantime
                partial = _Partial(path)
                logger.info("Downloading %s to %s.", url, path)
                _receive(url, partial, patience)
                digest = hash_file(partial.file)
                if not digest.startswith(sha256):
                    partial.discard()
                    raise DownloadError(
                        f"{url} is not the published file: its SHA-256 is {digest}, that of the published file "
                        f"{_begins(sha256)}. It was removed; try again"
                    )
                with _writing(path):
                    partial.file.replace(path)
                    partial.discard()
                    replace_text(_record(path), f"{digest}  {path.name}\n")
                return digest
    return verify_file(path, sha256=sha256)


def verify_file(path: Path, *, sha256: str = "") -> str:
    """Verify a file against the published hash, and against its hash when it was first used.

    Without a published hash, the hash at the first use is recorded next to the file, in `<name>.sha256`.

    Args:
        path: the file.
        sha256: of the published file, or a prefix of it; "" when unknown.

    Returns:
        Its SHA-256.

    Raises:
        DownloadError: when the file is a different one, or was changed.
    """
    digest = hash_file(path)
    if not digest.startswith(sha256):
        raise DownloadError(
            f"{path} is not the published file: its SHA-256 is {digest}, that of the published file {_begins(sha256)}. "
            "Remove it to download it again"
        )
    record = _record(path)
    if not record.is_file():
        with contextlib.suppress(OSError):  # the folder may belong to another user
            replace_text(record, f"{digest}  {path.name}\n")
    elif record.read_text(encoding="utf-8").split()[:1] != [digest]:
        raise DownloadError(
            f"{path} was changed since it was first used: its SHA-256 is {digest}, but {record} has a different one. "
            "Remove both files to start again"
        )
    return digest


def hash_file(path: str | os.PathLike[str]) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _begins(sha256: str) -> str:
    return f"is {sha256}" if len(sha256) == 64 else f"begins with {sha256}"


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lock downloads to `path` for this process within the context; the lock is released when the process ends."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with _writing(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("Another process is downloading %s; waiting for it.", path)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Version(NamedTuple):
    """Identifies the version of a file on the server, to decide whether a partial download can be resumed."""

    validator: str  # an ETag or a date; "" when the server sends none
    length: int | None  # bytes; None when the server does not send it

    @classmethod
    def of(cls, headers: Any, length: int | None) -> "_Version":
        etag = headers.get("ETag") or ""
        strong = "" if etag.startswith("W/") else etag  # a weak ETag may be the same for different bytes
        return cls(strong or headers.get("Last-Modified") or "", length)


class _Partial:
    """The part of a file that was received so far, with its version on the server."""

    def __init__(self, path: Path):
        self.name = path.name
        self.file = path.with_name(f".{path.name}.partial")
        self._about = path.with_name(f".{path.name}.partial.json")

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.is_file() else 0

    @property
    def version(self) -> _Version | None:
        try:
            about = json.loads(self._about.read_text(encoding="utf-8"))
            return _Version(str(about["validator"]), about["length"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def resumable_size(self) -> int:
        """The size, or 0 when the version of the file is unknown."""
        return self.size if self.version is not None and self.version.validator else 0

    def begin(self, version: _Version) -> None:
        """Remove the received part, and record the version of the new one."""
        self.discard()
        replace_text(self._about, json.dumps(version._asdict()))

    def discard(self) -> None:
        for file in (self._about, self.file):
            file.unlink(missing_ok=True)


def _receive(url: str, partial: _Partial, patience: float) -> None:
    """Complete `partial`, with as many requests as necessary."""
    failures, connected = 0, False
    largest_size = partial.size
    while True:
        try:
            _request(url, partial, patience)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise DownloadError(f"{url} cannot be downloaded: {_refusal(error)}") from error
            reason, connected = f"the server answers {error.code} {error.reason}", True
        except (OSError, http.client.HTTPException) as error:
            reason = _reason(error, patience)
            connected = connected or isinstance(error, _Interrupted) or partial.size > largest_size
        failures = 0 if partial.size > largest_size else failures + 1
        largest_size = max(largest_size, partial.size)
        if not connected or failures == ATTEMPTS:
            advice = f"; {partial.size / 2**20:.1f} MiB are kept, and the next attempt resumes there"
            raise DownloadError(f"{url} cannot be downloaded: {reason}{advice if partial.resumable_size else ''}")
        logger.info("%s; trying again.", reason)
        time.sleep(WAIT * 2**failures / 2)


def _refusal(error: urllib.error.HTTPError) -> str:
    meaning = "the file no longer exists, or has moved" if error.code in (404, 410) else "the server refuses it"
    return f"{meaning} (HTTP {error.code} {error.reason})"


def _reason(error: Exception, patience: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer for {patience:g} seconds"
    if isinstance(cause, ConnectionError) or not isinstance(error, urllib.error.URLError):
        return f"the connection was lost or refused ({cause})"
    return f"there is no connection to the server ({cause})"


class _Interrupted(ConnectionError):
    """The server's response did not contain the whole rest of the file."""


def _request(url: str, partial: _Partial, patience: float) -> None:
    """Request the missing rest of `partial`, and append it.

    Raises:
        DownloadError: when another request would not help.
        OSError, http.client.HTTPException: when it might.
    """
    version = partial.version
    begun = partial.resumable_size
    if version is not None and begun == version.length:
        return  # the process was stopped between the last byte and the verification
    request = urllib.request.Request(url, headers={"User-Agent": "detrex_lite", "Accept-Encoding": "identity"})
    if version is not None and begun:
        request.add_header("Range", f"bytes={begun}-")
        request.add_header("If-Range", version.validator)  # requests the whole file if it has changed
    try:
        response = urllib.request.urlopen(request, timeout=patience)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        partial.discard()  # the partial file is longer than the file on the server
        raise _Interrupted("the file on the server has changed") from error
    with response:
        length = response.headers.get("Content-Length")
        remaining = int(length) if length is not None else None
        if response.status == 206:
            whole = f"bytes {begun}-{(version.length or 0) - 1}/{version.length}" if version else None
            if response.headers.get("Content-Range") != whole:
                partial.discard()
                raise _Interrupted("the server sends a different part than requested")
        else:
            begun = 0
        _append(response, partial, begun, remaining)


def _append(response: Any, partial: _Partial, begun: int, remaining: int | None) -> None:
    length = None if remaining is None else begun + remaining
    url = response.url
    chunk = response.read(CHUNK)
    if begun == 0:
        if response.headers.get_content_type() == "text/html" or BEGINNING_OF_HTML.match(chunk):
            raise DownloadError(
                f"{url} returns a web page instead of a checkpoint: open it in a browser and download the file there"
            )
        with _writing(partial.file):
            partial.begin(_Version.of(response.headers, length))
    folder = partial.file.parent
    if remaining is not None and remaining > (free := shutil.disk_usage(folder).free):
        raise DownloadError(
            f"{url} needs {remaining / 2**20:.0f} MiB more, but {folder} has {free / 2**20:.0f} MiB free: free some "
            "space, or choose another folder"
        )
    with _writing(partial.file):
        file = partial.file.open("ab", buffering=0)
    # The progress bar is shown in a terminal only.
    bar = tqdm(total=length, initial=begun, unit="B", unit_scale=True, desc=partial.name, disable=None)
    with file, bar:
        while chunk:
            with _writing(partial.file):
                _write(file, chunk)
            bar.update(len(chunk))
            chunk = response.read(CHUNK)
        with _writing(partial.file):
            os.fsync(file.fileno())
    if length is not None and partial.size < length:
        raise _Interrupted(f"the connection ended after {partial.size} of {length} bytes")


def _write(file: FileIO, data: bytes) -> None:
    """Write all of `data` to an unbuffered file, whose `write` may write only a part."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[file.write(remaining) :]


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert errors of the file system to clear messages. Nothing inside the context may use the network."""
    try:
        yield
    except OSError as error:
        advice = "choose another folder, or one with write permission"
        if error.errno in DISK_FULL:
            advice = "the disk is full: free some space, or choose another folder. The received part is kept"
        raise DownloadError(f"{path} cannot be written ({error.strerror or error}): {advice}") from error
