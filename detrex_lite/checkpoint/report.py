"""What loading a checkpoint did."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from .classes import ClassRows
from .files import CheckpointError


class Mismatch(NamedTuple):
    """A tensor that has another shape in the checkpoint than in the model."""

    source: str
    name: str
    source_shape: tuple[int, ...]
    model_shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.source_shape} in the checkpoint, {self.model_shape} in the model"


@dataclass
class LoadReport:
    """Which tensors of a checkpoint went where.

    Attributes:
        key_map: the naming that the checkpoint follows.
        loaded: key in the checkpoint -> names in this model that now hold its values. A tensor that the model
            has under several names is listed under the first.
        missing: names in the model for which the checkpoint has nothing; they keep their initial values.
        unexpected: keys in the checkpoint for which the model has no place.
        mismatched: tensors left out because their shapes differ; these too keep their initial values.
        names_of_unexpected: what this project would call the unexpected ones, where a detector takes a detector's.
        training_only: beginnings of names in the model of what evaluation does not use.
        rows: how the classes of checkpoint and model go together, where rows were arranged by their names.
        arranged: names in the model of the tensors whose rows were arranged: those of new classes keep their initial
            values.
    """

    key_map: str
    loaded: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[Mismatch] = field(default_factory=list)
    names_of_unexpected: dict[str, str] = field(default_factory=dict)
    training_only: tuple[str, ...] = ()
    rows: ClassRows | None = None
    arranged: list[str] = field(default_factory=list)

    def require_complete(self, source: str) -> None:
        """Make sure that evaluation gives what was trained.

        Args:
            source: what was loaded, for the message.

        Raises:
            CheckpointError: when a tensor of the model was left as initialised, or the checkpoint has tensors for
                which the model has no place: it was trained as part of another model. Those that serve training
                alone, such as a label embedding for denoising, may be missing or left over.
        """
        missing = [name for name in self.missing if not self._for_training(name)]
        unexpected = [key for key, name in self.names_of_unexpected.items() if not self._for_training(name)]
        faults = [
            f"{what.format(len(names))}: {', '.join(names_or_parts(names))}"
            for what, names in (
                ("lacks {} of the model's tensors, which would stay random", missing),
                ("has {} tensors that the model has no place for", unexpected),
            )
            if names
        ]
        if faults:
            raise CheckpointError(
                f"{source} (names of {self.key_map}) {'; it '.join(faults)}. Take the config that it was trained with"
            )

    def _for_training(self, name: str) -> bool:
        return name.startswith(self.training_only)

    def summary(self) -> str:
        """A table of counts by part of the model, and the names of what was not loaded."""
        loaded = _count(name for names in self.loaded.values() for name in names)
        initial = _count([*self.missing, *(one.name for one in self.mismatched)])
        unused = _count(self.unexpected)
        parts = sorted({*loaded, *initial, *unused})
        width = max([len("part"), *map(len, parts)])
        lines = [
            f"checkpoint with the names of {self.key_map}: {sum(loaded.values())} tensors loaded, "
            f"{sum(initial.values())} re-initialised, {sum(unused.values())} unused",
            f"{'part':<{width}}  loaded  re-initialised  unused",
        ]
        for part in parts:
            counts = (str(count[part] or "-") for count in (loaded, initial, unused))
            lines.append("{:<{}}  {:>6}  {:>14}  {:>6}".format(part, width, *counts))
        if self.rows is not None:
            lines.append(f"{self.rows.describe()} (in {len(self.arranged)} tensors)")
        lines += _section("re-initialised, the shape differs", [str(one) for one in self.mismatched])
        lines += _section("re-initialised, not in the checkpoint", names_or_parts(self.missing))
        lines += _section("unused, not in the model", names_or_parts(self.unexpected))
        return "\n".join(lines)


def _part(name: str) -> str:
    """The module that a tensor's dotted name begins with: at most two parts, none from a number on."""
    module = name.split(".")[:-1]
    return ".".join(takewhile(lambda piece: not piece.isdigit(), module[:2])) or name


def _count(names: Iterable[str]) -> Counter[str]:
    return Counter(map(_part, names))


def names_or_parts(names: list[str], limit: int = 8) -> list[str]:
    """The names when they are few, else the parts of the model that they are in, with their number."""
    if len(names) <= limit:
        return names
    return [f"{part} ({count} tensor{'s' * (count > 1)})" for part, count in _count(names).items()]


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []
