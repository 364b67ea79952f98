"""The report of loading a checkpoint."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from .classes import ClassRows
from .files import CheckpointError


class Mismatch(NamedTuple):
    """A tensor whose shape in the checkpoint differs from that in the model."""

    source: str
    name: str
    source_shape: tuple[int, ...]
    model_shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.source_shape} in the checkpoint, {self.model_shape} in the model"


@dataclass
class LoadReport:
    """The result of loading a checkpoint, tensor by tensor.

    Attributes:
        key_map: the format of the checkpoint's names.
        loaded: maps keys of the checkpoint to the names in this model that now have their values. A tensor with several
            names in the model is listed under the first.
        missing: names in the model that the checkpoint lacks; these tensors keep their initial values.
        unexpected: keys of the checkpoint that the model does not have.
        mismatched: tensors that were not loaded because their shapes differ; they also keep their initial values.
        names_of_unexpected: this project's names of the unexpected keys, when a detector's checkpoint was loaded.
        training_only: prefixes of names in the model that evaluation does not use.
        rows: the correspondence of the checkpoint's and the model's classes, if rows were arranged by class names.
        arranged: names in the model of the tensors whose rows were arranged; rows of new classes keep their initial
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
        """Make sure that the model is the trained one, for evaluation.

        Args:
            source: the name of the checkpoint, for the message.

        Raises:
            CheckpointError: when a tensor of the model keeps its initial value, or the checkpoint has tensors that the
                model does not have, because it was trained as part of another model. Tensors used in training alone,
                such as a label embedding for denoising, may be missing or unexpected.
        """
        missing = [name for name in self.missing if not self._for_training(name)]
        unexpected = [key for key, name in self.names_of_unexpected.items() if not self._for_training(name)]
        faults = [
            f"{template.format(len(names))}: {', '.join(names_or_parts(names))}"
            for template, names in (
                ("lacks {} of the model's tensors, which would keep random values", missing),
                ("has {} tensors that the model does not have", unexpected),
            )
            if names
        ]
        if faults:
            raise CheckpointError(
                f"{source} (names of {self.key_map}) {'; it '.join(faults)}. Use the config that it was trained with"
            )

    def _for_training(self, name: str) -> bool:
        return name.startswith(self.training_only)

    def summary(self) -> str:
        """Return a table of counts by part of the model, and the names of tensors that were not loaded."""
        loaded = _count(name for names in self.loaded.values() for name in names)
        initial = _count([*self.missing, *(mismatch.name for mismatch in self.mismatched)])
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
        lines += _section("re-initialised, the shape differs", [str(mismatch) for mismatch in self.mismatched])
        lines += _section("re-initialised, not in the checkpoint", names_or_parts(self.missing))
        lines += _section("unused, not in the model", names_or_parts(self.unexpected))
        return "\n".join(lines)


def _part(name: str) -> str:
    """Return the module that a tensor belongs to: at most two parts of its dotted name, up to a number."""
    module = name.split(".")[:-1]
    return ".".join(takewhile(lambda piece: not piece.isdigit(), module[:2])) or name


def _count(names: Iterable[str]) -> Counter[str]:
    return Counter(map(_part, names))


def names_or_parts(names: list[str], limit: int = 8) -> list[str]:
    """List the names if they are few, otherwise the parts of the model that contain them, with their number."""
    if len(names) <= limit:
        return names
    return [f"{part} ({count} tensor{'s' * (count > 1)})" for part, count in _count(names).items()]


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []
