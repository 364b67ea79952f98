"""The checkpoints of one training run, in its output folder."""

import logging
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .files import (
    PARTIAL,
    CheckpointError,
    DamagedCheckpointError,
    atomic_file,
    read_checkpoint,
    save_atomic,
    verify_checkpoint,
)

FORMAT = 1
LAST = "last_checkpoint"
BEST = "model_best"
NUMBERED = re.compile(r"model_(\d+)\.pth")
PLAIN = (Tensor, nn.Parameter, str, int, float, bool, bytes, type(None))

logger = logging.getLogger(__name__)


class Checkpointer:
    """Saves training state as `<name>.pth`, keeps track of the newest checkpoint and removes the oldest.

    Only one process may save. Loading never runs code from the file.

    Args:
        output_dir: the run's folder; created when something is saved.
        max_to_keep: how many files `model_<iteration>.pth` to keep; all when None. Files with other names
            (`model_best.pth`, `model_final.pth`) are never removed.

    Raises:
        ValueError: when `max_to_keep` is below 1.
    """

    def __init__(self, output_dir: str | os.PathLike[str], *, max_to_keep: int | None = None):
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(f"max_to_keep={max_to_keep} is below 1; None keeps all checkpoints")
        self.output_dir = Path(os.path.expanduser(output_dir))
        self.max_to_keep = max_to_keep

    def save(self, name: str, state: Mapping[str, Any]) -> Path:
        """Write `state` to `<name>.pth`, make it the newest, then remove old checkpoints beyond `max_to_keep`.

        Args:
            name: the file's name without suffix, e.g. "model_0001999".
            state: a dict of tensors and plain values, which can be loaded without running code; `format` is added.

        Raises:
            ValueError: when `name` is not a bare name, or `state` contains anything else.
            OSError: when writing fails; all earlier checkpoints are preserved.
        """
        if not name or name != Path(name).name or name.endswith(".pth"):
            raise ValueError(f"the name of a checkpoint is a file name without folder and suffix, got {name!r}")
        state = _checked(state)
        path = self.output_dir / f"{name}.pth"
        save_atomic(state, path)
        with atomic_file(self.output_dir / LAST) as file:
            file.write(path.name.encode())
        self._remove_oldest(keep=path)
        return path

    def try_saving(self, state: Mapping[str, Any]) -> None:
        """Write `state` as `save` would and remove it again, so that errors occur now and not after hours.

        Raises:
            ValueError, OSError: see `save`.
        """
        trial = self.output_dir / f".trial.pth.{secrets.token_hex(8)}.partial"
        save_atomic(_checked(state), trial)
        trial.unlink()

    def remove_leftovers(self) -> None:
        """Remove partial files of a process that was killed while writing. No other process may be writing here."""
        for leftover in self.output_dir.glob(".*.partial"):
            if PARTIAL.fullmatch(leftover.name):
                leftover.unlink(missing_ok=True)

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return bool(self._candidates())

    def latest(self) -> Path:
        """Return the newest undamaged checkpoint; a warning names newer ones that are damaged.

        Raises:
            CheckpointError: when there is none, or all are damaged.
        """
        last = self._last()
        if last is None and (self.output_dir / LAST).exists():
            logger.warning(
                "%s does not name a checkpoint in its folder; looking for the newest remaining one",
                self.output_dir / LAST,
            )
        if last is not None and not last.is_file():
            logger.warning(
                "%s names %s, which is missing; looking for the newest remaining one", self.output_dir / LAST, last.name
            )
        damaged = []
        for path in self._candidates():
            try:
                verify_checkpoint(path)
            except DamagedCheckpointError as error:
                logger.warning("%s; looking for the previous checkpoint.", error)
                damaged.append(path.name)
            else:
                return path
        if damaged:
            raise CheckpointError(
                f"all checkpoints in {self.output_dir} are damaged ({', '.join(damaged)}); to train from scratch, "
                "choose another folder with train.output_dir=..."
            )
        raise CheckpointError(f"{self.output_dir} contains no checkpoint to resume from")

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Load the state that was saved to `path`.

        Raises:
            CheckpointError: when the file cannot be read, contains only weights, or was saved by a newer version.
        """
        state = read_checkpoint(path)
        if "format" not in state:
            raise CheckpointError(
                f"{path} contains no training state to resume from; to start from its weights, pass it as "
                "train.init_checkpoint"
            )
        if state["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {state['format']}, but this version reads format {FORMAT}: update detrex_lite"
            )
        return state

    def _last(self) -> Path | None:
        """Return the checkpoint that was saved last, whether or not it still exists; None when that is unknown."""
        tag = self.output_dir / LAST
        if not tag.is_file():
            return None
        name = tag.read_text(encoding="utf-8", errors="replace").strip()
        # `save` only writes the name of a file.
        is_name = name == Path(name).name and name.endswith(".pth") and name.isprintable()
        return self.output_dir / name if is_name else None

    def _candidates(self) -> list[Path]:
        """List checkpoints from newest to oldest: the one that was saved last, then those with numbers, then the best
        one, whose age is unknown.
        """
        paths = [self._last(), *reversed(self._numbered()), self.output_dir / f"{BEST}.pth"]
        return list(dict.fromkeys(path for path in paths if path is not None and path.is_file()))

    def _numbered(self) -> list[Path]:
        """List the files `model_<iteration>.pth`, sorted by iteration (names need not have leading zeros)."""
        matches = ((NUMBERED.fullmatch(path.name), path) for path in self.output_dir.glob("model_*.pth"))
        return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]

    def _remove_oldest(self, keep: Path) -> None:
        if self.max_to_keep is None:
            return
        # The file that was just written is kept, even if the folder has files of a longer run with higher numbers.
        other_files = [path for path in self._numbered() if path != keep]
        num_to_keep = self.max_to_keep - (NUMBERED.fullmatch(keep.name) is not None)
        for path in other_files[: max(0, len(other_files) - num_to_keep)]:
            try:
                path.unlink()
            except OSError as error:  # the new checkpoint is safe, so training continues
                logger.warning("could not remove the old checkpoint %s: %s", path, error)


def _checked(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file after checking that it can be loaded again."""
    content = {"format": FORMAT, **state}
    _require_plain(content, "state")
    return content


def _require_plain(value: Any, where: str) -> None:
    """Raise a ValueError for values that `torch.load(weights_only=True)` refuses, since the run could not resume."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _require_plain(key, f"a key of {where}")
            _require_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
    elif type(value) not in PLAIN:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise ValueError(f"{where} is a {kind}; a checkpoint may contain only tensors and plain values")
