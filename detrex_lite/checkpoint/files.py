"""Files of weights or training state: read without running code, written without losing what was there."""

import argparse
import errno
import json
import os
import pickle
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import did_you_mean
from .array_pickle import ForbiddenGlobal, load_array_pickle

SUFFIXES = (".pth", ".pt", ".safetensors", ".pkl", ".bin")
INDEX_SUFFIX = ".index.json"
# What a folder of Hugging Face's libraries holds, in the order in which they look for it.
HUGGING_FACE_FILES = tuple(
    name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", INDEX_SUFFIX)
)
PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.partial")  # names of files that `atomic_file` has not finished
DETECTRON2_PREFIX = "detectron2://"
DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"
TRUST = "If you trust its author, pass trusted=True (train.trust_init_checkpoint=True in a config)"

# Classes that only hold values: the repositories of most papers save the arguments of their command line.
HARMLESS: list[Any] = [argparse.Namespace]


class CheckpointError(ValueError):
    """A checkpoint cannot be read, does not fit the model, or is not what was asked for."""


class DamagedCheckpointError(CheckpointError):
    """A file is not what was once written: cut off, empty, or with other bytes in it."""


def read_checkpoint(path: str | os.PathLike[str], *, trusted: bool = False) -> dict[str, Any]:
    """The whole content of a checkpoint file, on the CPU.

    Reads `.safetensors`, `.pkl` files of NumPy arrays (detectron2's model zoo), all files that an `.index.json` of
    Hugging Face's libraries lists, and with any other suffix what torch.save wrote, whose checksums are compared.

    Args:
        path: the file, or a folder in which Hugging Face's libraries saved a model.
        trusted: whether code inside the file may run. Only for files whose author you trust; pickles of
            anything else than tensors, arrays and plain values cannot be read without it.

    Raises:
        DamagedCheckpointError: when it is empty, truncated or of another kind, or a bit in it is not what was written.
        CheckpointError: when there is no such file, or reading it would run code; for an index, also when one of its
            files is missing, or a tensor of the index is in none of them.
    """
    path = _existing_file(_model_in(path))
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path, trusted)
    _require_no_stand_in(path)
    if _is_zip(path):
        verify_checkpoint(path)
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        elif path.suffix == ".pkl":
            with path.open("rb") as file:
                content = pickle.load(file) if trusted else load_array_pickle(file)
        else:
            torch.serialization.add_safe_globals(HARMLESS)
            content = torch.load(path, map_location="cpu", weights_only=not trusted)
    except MemoryError as error:
        # A length in a damaged file may be any number, and so the memory that is asked for.
        size = path.stat().st_size / 2**20
        raise CheckpointError(
            f"{path} cannot be read: there is not enough memory for it ({size:.0f} MiB), or it is damaged"
        ) from error
    except Exception as error:
        # Readers fail in many ways on bytes that are not theirs, from UnpicklingError to UnicodeDecodeError.
        raise _reading_error(path, error, trusted) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return dict(content)


def _model_in(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The file to read in a folder of Hugging Face's libraries; `path` itself for anything else."""
    found = (Path(os.path.expanduser(path)) / name for name in HUGGING_FACE_FILES)
    return next((file for file in found if file.is_file()), path)


def _read_shards(index: Path, trusted: bool) -> dict[str, Any]:
    """The content of all files that an index of Hugging Face's libraries lists, which are beside it."""
    try:
        files: dict[str, str] = dict(json.loads(index.read_text("utf-8"))["weight_map"])
        shards = [index.with_name(name) for name in dict.fromkeys(files.values())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _reading_error(index, error, trusted) from error
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"{index} lists {len(shards)} files, and {len(missing)} of them are not in that folder: "
            f"{', '.join(missing[:5])}{', ...' * (len(missing) > 5)}. Download or copy these as well"
        )
    content: dict[str, Any] = {}
    for shard in shards:
        content.update(read_checkpoint(shard, trusted=trusted))
    lacking = [f"{name} (in {file})" for name, file in files.items() if name not in content]
    if lacking:
        raise CheckpointError(
            f"{index} lists {len(lacking)} tensors that none of its files holds: {', '.join(lacking[:5])}"
            f"{', ...' * (len(lacking) > 5)}. Files and index are of different checkpoints: take all from one place"
        )
    return content


def _existing_file(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if "://" in text:
        url = text.replace(DETECTRON2_PREFIX, DETECTRON2_URL)
        raise CheckpointError(
            f"{text} is an address, and checkpoints are read from files: download it (curl -LO {url}) and "
            "give the path of the file"
        )
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.suffix in SUFFIXES)
        listed = f" in it: {', '.join(inside)}" if inside else ""
        raise CheckpointError(f"{path} is a folder; give a file{listed}")
    if not path.exists():
        siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, siblings, otherwise="")
        raise CheckpointError(f"there is no file {path.absolute()}{hint}")
    if path.stat().st_size == 0:
        raise DamagedCheckpointError(f"{path} is empty: the download or the save that made it did not finish")
    return path


def _require_no_stand_in(path: Path) -> None:
    """Refuse what downloads leave in the place of weights."""
    with path.open("rb") as file:
        begins = file.read(512).lstrip().lower()
    if begins.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a pointer of Git LFS, not the weights themselves: run `git lfs pull` in its repository, or "
            "download the file from its page"
        )
    if begins.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} is a web page, not weights: download the file itself, not a page about it")


def _is_zip(path: Path) -> bool:
    """Whether it begins as all files do that torch.save has written since version 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _reading_error(path: Path, error: Exception, trusted: bool) -> CheckpointError:
    forbidden = [] if trusted else _forbidden_globals(path, error)
    if forbidden:
        return CheckpointError(
            f"{path} was not read: besides weights it holds {', '.join(forbidden)}, and reading that runs "
            f"code from the file. {TRUST}; otherwise ask for a file of tensors only, such as .safetensors"
        )
    if not trusted and "legacy .tar" in str(error):
        return CheckpointError(
            f"{path} was not read: it is a tar archive, as PyTorch before 0.4 wrote them, and reading that "
            f"runs code from the file. {TRUST}"
        )
    # torch.load puts a page of general advice before the reason.
    reason = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())[:200]
    advice = "it may be truncated, damaged or no checkpoint"
    kind = CheckpointError if isinstance(error, OSError) else DamagedCheckpointError
    return kind(f"{path} cannot be read ({type(error).__name__}: {reason}); {advice}")


def verify_checkpoint(path: str | os.PathLike[str]) -> None:
    """Read a file that torch.save wrote once and compare its checksums, which torch.load does not.

    Without checksums, which torch can be told to leave out, only the list of its parts is read.

    Raises:
        DamagedCheckpointError: when it is empty or cut off, or a bit in it is not what was written.
        CheckpointError: when there is no such file.
    """
    path = _existing_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            has_checksums = any(part.CRC for part in archive.infolist())
            wrong = archive.testzip() if has_checksums else None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: it is not a whole file of torch.save ({error})") from error
    if wrong is not None:
        raise DamagedCheckpointError(f"{path} is damaged: the checksum of its part {wrong} is wrong")


def _forbidden_globals(path: Path, error: Exception) -> list[str]:
    """The names that a safe reader refused to look up; empty when it failed for another reason."""
    if isinstance(error, ForbiddenGlobal):
        return [error.name]
    refused = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", str(error))
    if refused is None:
        return []
    list_all = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)  # since torch 2.5
    if list_all is not None and zipfile.is_zipfile(path):
        return sorted(list_all(path))
    return [refused[1]]


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write; it takes the place of `path` when the block ends well and is removed when it does not.

    Raises:
        OSError: when writing fails; the message names the path and the free space. What was at `path` before
            is still there.
    """
    # A name of its own for each writer, which nobody can foresee: no other writer shares it, and no link waits there.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        cause = _os_error(error)
        if cause is None:
            raise
        raise OSError(cause.errno or errno.EIO, _failed_write(path, cause)) from error
    _sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write `text` to a file that others may be reading: they find the old one or the whole new one.

    Args:
        path: the file, in UTF-8; missing folders are made.
        text: written as it is, with its own ends of lines.

    Raises:
        OSError: when writing fails, as `atomic_file` has it.
    """
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def _os_error(error: BaseException) -> OSError | None:
    """The operating system's error, which torch.save covers with a RuntimeError of its zip writer."""
    behind = error.__context__ if isinstance(error, RuntimeError) else error
    return behind if isinstance(behind, OSError) else None


def _failed_write(path: Path, cause: OSError) -> str:
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free / 2**20
    before = "; the file that was there before is unharmed" if path.is_file() else ""
    return f"could not write {path} ({cause.strerror or cause}; {free:.0f} MiB free in {folder}){before}"


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlive a power cut, on systems and file systems that can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save_atomic(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write `obj` to `path`; at every moment the file there is either the old one or the whole new one.

    Args:
        obj: what torch.save takes; for a path that ends in `.safetensors`, a dict of tensors.
        path: the file; missing folders are made.

    Raises:
        OSError: when writing fails (disk full, no permission): the old file, if any, is still there.
        CheckpointError: when the path ends in `.safetensors` and `obj` is not a dict of tensors.
    """
    path = Path(os.path.expanduser(path))
    if path.suffix != ".safetensors":
        with atomic_file(path) as file:
            torch.save(obj, file)
        return

    if not isinstance(obj, Mapping) or not all(isinstance(value, Tensor) for value in obj.values()):
        raise CheckpointError(f"{path}: a .safetensors file holds a dict of tensors and nothing else; use .pth")
    # The format has no shared tensors: each name gets its own copy.
    data = save({name: value.detach().clone().contiguous() for name, value in obj.items()}, {"format": "pt"})
    with atomic_file(path) as file:
        file.write(data)
