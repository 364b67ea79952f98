"""Files of weights or training state, which are read without running code and written atomically."""

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
# File names in a folder of Hugging Face's libraries, in the order in which they look for them.
HUGGING_FACE_FILES = tuple(
    name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", INDEX_SUFFIX)
)
PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.partial")  # names of unfinished files of `atomic_file`
DETECTRON2_PREFIX = "detectron2://"
DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"
TRUST = "If you trust its author, pass trusted=True (train.trust_init_checkpoint=True in a config)"

# Classes that only hold values: most papers' repositories save their command line arguments with the weights.
HARMLESS: list[Any] = [argparse.Namespace]


class CheckpointError(ValueError):
    """A checkpoint cannot be read, does not fit the model, or is not what was requested."""


class DamagedCheckpointError(CheckpointError):
    """The content of a file is not what was written: truncated, empty or corrupted."""


def read_checkpoint(path: str | os.PathLike[str], *, trusted: bool = False) -> dict[str, Any]:
    """Read the whole content of a checkpoint file to the CPU.

    Reads `.safetensors`, `.pkl` files of NumPy arrays (detectron2's model zoo), all files listed in an `.index.json` of
    Hugging Face's libraries and, with any other suffix, files of torch.save, whose checksums are verified.

    Args:
        path: the file, or a folder in which Hugging Face's libraries saved a model.
        trusted: whether code inside the file may run. Use it only for files whose author you trust; pickles of
            anything other than tensors, arrays and plain values cannot be read without it.

    Raises:
        DamagedCheckpointError: when the file is empty, truncated, corrupted or of a different kind.
        CheckpointError: when there is no such file, or reading it would run code; for an index, also when a file is
            missing, or a tensor of the index is in none of the files.
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
        # In a damaged file a length, and so the requested memory, may be any number.
        size = path.stat().st_size / 2**20
        raise CheckpointError(
            f"{path} cannot be read: there is not enough memory for it ({size:.0f} MiB), or it is damaged"
        ) from error
    except Exception as error:
        # On bytes of another format readers fail in many ways, from UnpicklingError to UnicodeDecodeError.
        raise _reading_error(path, error, trusted) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} contains a {type(content).__name__}, not a dict of weights")
    return dict(content)


def _model_in(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the file to read in a folder of Hugging Face's libraries; `path` itself for anything else."""
    candidates = (Path(os.path.expanduser(path)) / name for name in HUGGING_FACE_FILES)
    return next((file for file in candidates if file.is_file()), path)


def _read_shards(index: Path, trusted: bool) -> dict[str, Any]:
    """Read all files that an index of Hugging Face's libraries lists, which are in the same folder."""
    try:
        files: dict[str, str] = dict(json.loads(index.read_text("utf-8"))["weight_map"])
        shards = [index.with_name(name) for name in dict.fromkeys(files.values())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _reading_error(index, error, trusted) from error
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"{index} lists {len(shards)} files, but {len(missing)} of them are not in that folder: "
            f"{', '.join(missing[:5])}{', ...' * (len(missing) > 5)}. Download or copy these as well"
        )
    content: dict[str, Any] = {}
    for shard in shards:
        content.update(read_checkpoint(shard, trusted=trusted))
    missing_tensors = [f"{name} (in {file})" for name, file in files.items() if name not in content]
    if missing_tensors:
        raise CheckpointError(
            f"{index} lists {len(missing_tensors)} tensors that none of its files contains: "
            f"{', '.join(missing_tensors[:5])}{', ...' * (len(missing_tensors) > 5)}. The files and the index belong "
            "to different checkpoints: take all files from one source"
        )
    return content


def _existing_file(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if "://" in text:
        url = text.replace(DETECTRON2_PREFIX, DETECTRON2_URL)
        raise CheckpointError(
            f"{text} is an address, but checkpoints are read from files: download it (curl -LO {url}) and pass the "
            "path of the file"
        )
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.suffix in SUFFIXES)
        hint = f" in it: {', '.join(inside)}" if inside else ""
        raise CheckpointError(f"{path} is a folder; give a file{hint}")
    if not path.exists():
        siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, siblings, otherwise="")
        raise CheckpointError(f"there is no file {path.absolute()}{hint}")
    if path.stat().st_size == 0:
        raise DamagedCheckpointError(f"{path} is empty: the download or the save that created it did not finish")
    return path


def _require_no_stand_in(path: Path) -> None:
    """Raise an error for files that downloads leave instead of weights."""
    with path.open("rb") as file:
        begins = file.read(512).lstrip().lower()
    if begins.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights themselves: run `git lfs pull` in its repository, or "
            "download the file from its page"
        )
    if begins.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} is a web page, not weights: download the file itself, not a page about it")


def _is_zip(path: Path) -> bool:
    """Whether the file begins like all files of torch.save since version 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _reading_error(path: Path, error: Exception, trusted: bool) -> CheckpointError:
    forbidden = [] if trusted else _forbidden_globals(path, error)
    if forbidden:
        return CheckpointError(
            f"{path} was not read: besides weights it contains {', '.join(forbidden)}, and reading these runs "
            f"code from the file. {TRUST}; otherwise ask for a file with only tensors, such as .safetensors"
        )
    if not trusted and "legacy .tar" in str(error):
        return CheckpointError(
            f"{path} was not read: it is a tar archive of PyTorch before 0.4, and reading it runs code from the file. "
            f"{TRUST}"
        )
    # torch.load puts a long general advice before the reason.
    reason = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].split())[:200]
    advice = "it may be truncated, damaged or not a checkpoint"
    kind = CheckpointError if isinstance(error, OSError) else DamagedCheckpointError
    return kind(f"{path} cannot be read ({type(error).__name__}: {reason}); {advice}")


def verify_checkpoint(path: str | os.PathLike[str]) -> None:
    """Read a file of torch.save once and verify its checksums, which torch.load does not.

    If torch was told to omit checksums, only the list of the file's parts is read.

    Raises:
        DamagedCheckpointError: when the file is empty, truncated or corrupted.
        CheckpointError: when there is no such file.
    """
    path = _existing_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            has_checksums = any(part.CRC for part in archive.infolist())
            wrong = archive.testzip() if has_checksums else None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: it is not a complete file of torch.save ({error})") from error
    if wrong is not None:
        raise DamagedCheckpointError(f"{path} is damaged: its part {wrong} has a wrong checksum")


def _forbidden_globals(path: Path, error: Exception) -> list[str]:
    """Return the names that a safe reader refused to look up; empty when it failed for another reason."""
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
    """Open a file for writing that replaces `path` when the block succeeds and is removed when it fails.

    Raises:
        OSError: when writing fails; the message names the path and the free space. The previous content of `path` is
            preserved.
    """
    # Each writer uses an unpredictable name, so that no other writer shares it and no link can be planted there.
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
    """Write `text` to a file that others may be reading: they see either the old or the complete new content.

    Args:
        path: the file, in UTF-8; missing folders are created.
        text: written unchanged, including line ends.

    Raises:
        OSError: when writing fails, as in `atomic_file`.
    """
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def _os_error(error: BaseException) -> OSError | None:
    """Return the operating system's error, which torch.save hides in a RuntimeError of its zip writer."""
    behind = error.__context__ if isinstance(error, RuntimeError) else error
    return behind if isinstance(behind, OSError) else None


def _failed_write(path: Path, cause: OSError) -> str:
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free / 2**20
    hint = "; the existing file is unchanged" if path.is_file() else ""
    return f"could not write {path} ({cause.strerror or cause}; {free:.0f} MiB free in {folder}){hint}"


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure, on systems and file systems that support it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save_atomic(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write `obj` to `path` atomically: at any time the file has either the old or the complete new content.

    Args:
        obj: anything that torch.save takes; for a path that ends in `.safetensors`, a dict of tensors.
        path: the file; missing folders are created.

    Raises:
        OSError: when writing fails (disk full, no permission); the old file, if any, is preserved.
        CheckpointError: when the path ends in `.safetensors` and `obj` is not a dict of tensors.
    """
    path = Path(os.path.expanduser(path))
    if path.suffix != ".safetensors":
        with atomic_file(path) as file:
            torch.save(obj, file)
        return

    if not isinstance(obj, Mapping) or not all(isinstance(value, Tensor) for value in obj.values()):
        raise CheckpointError(f"{path}: a .safetensors file can only contain a dict of tensors; use .pth")
    # The format does not support shared tensors, so each name gets a copy.
    data = save({name: value.detach().clone().contiguous() for name, value in obj.items()}, {"format": "pt"})
    with atomic_file(path) as file:
        file.write(data)
