"""Fine-tuning with different classes: classes with unchanged names keep their learned parameters."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..coco_classes import COCO_CLASSES

# Tensors with one row per class: class heads, those of branches and auxiliary heads, label embeddings.
_ONE_ROW = re.compile(r"(^|\.)(class_embed(\.\d+)?|label_embedding)\.(weight|bias)$")
_FOUR_ROWS = re.compile(r"^collaboration\.heads\.\w+\.bbox_embed\.(weight|bias)$")


def class_names_of(stored: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes that a checkpoint was trained on.

    Args:
        stored: the content of the checkpoint file.

    Returns:
        The names in it, as this project or mmdetection writes them; otherwise those of COCO, on which published
        detectors were trained. Rows are only copied if their number matches that of the names.
    """
    meta = stored.get("meta")
    described = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    for names in (stored.get("class_names"), described.get("classes") if isinstance(described, Mapping) else None):
        if isinstance(names, list | tuple) and names:
            return tuple(str(name) for name in names)
    return COCO_CLASSES


@dataclass(frozen=True)
class ClassRows:
    """The correspondence of a model's classes and a checkpoint's classes, by name.

    Names that differ only in case, hyphens, underscores and spaces are equal, unless that is ambiguous.

    Attributes:
        here: the K names of the model's classes.
        there: the names of the checkpoint's classes.
        sources: for each class of the model, the index of the checkpoint's class; None for new classes.
    """

    here: tuple[str, ...]
    there: tuple[str, ...]
    sources: tuple[int | None, ...]

    @classmethod
    def of(cls, here: Sequence[str], there: Sequence[str]) -> "ClassRows":
        """Match each name of `here` with one of `there`."""
        exact, alike = _unique(there), _unique([_plain(name) for name in there])
        unambiguous = _unique([_plain(name) for name in here])
        sources = [exact.get(name, alike.get(_plain(name)) if _plain(name) in unambiguous else None) for name in here]
        matched = [source for source in sources if source is not None]
        # If an exact and an inexact name match the same row, the exact one gets it.
        sources = [
            None if source is not None and matched.count(source) > 1 and there[source] != name else source
            for name, source in zip(here, sources, strict=True)
        ]
        return cls(tuple(here), tuple(there), tuple(sources))

    @property
    def is_same(self) -> bool:
        """Whether all rows keep their positions."""
        return self.sources == tuple(range(len(self.there)))

    @property
    def kept(self) -> list[str]:
        """Names of the model's classes that the checkpoint has as well."""
        return [name for name, source in zip(self.here, self.sources, strict=True) if source is not None]

    @property
    def new(self) -> list[str]:
        """Names of the model's classes that the checkpoint does not have."""
        return [name for name, source in zip(self.here, self.sources, strict=True) if source is None]

    @property
    def left(self) -> list[str]:
        """Names of the checkpoint's classes that the model does not have."""
        return [name for index, name in enumerate(self.there) if index not in self.sources]

    def source_shape(self, name: str, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Return the shape of a tensor of the model in the checkpoint, which follows from the number of classes there.

        Args:
            name: of the tensor in the model.
            shape: of the tensor in the model.

        Returns:
            The shape, or None for tensors without rows for the classes.
        """
        repeats = 4 if _FOUR_ROWS.search(name) else 1 if _ONE_ROW.search(name) else 0
        spare = shape[0] - repeats * len(self.here) if repeats and shape else -1
        if not 0 <= spare <= 1:  # the row of "no object", or of padding labels
            return None
        return (repeats * len(self.there) + spare, *shape[1:])

    def arranged(self, value: Tensor, initial: Tensor) -> Tensor:
        """Return the rows of a tensor of the checkpoint in the order of the model's classes.

        Args:
            value: the tensor of the checkpoint, with the shape of `source_shape`.
            initial: the tensor of the model, whose rows new classes keep.
        """
        repeats = value.shape[0] // len(self.there)
        result = initial.detach().to(device=value.device, dtype=value.dtype, copy=True)
        for index, source in enumerate(self.sources):
            if source is not None:
                result[repeats * index : repeats * (index + 1)] = value[repeats * source : repeats * (source + 1)]
        spare = value.shape[0] - repeats * len(self.there)
        if spare:
            result[-spare:] = value[-spare:]
        return result

    @staticmethod
    def arranged_for_objects(value: Tensor, initial: Tensor) -> Tensor:
        """As `arranged`, for a head whose first row is an objectness score: rows keep their positions."""
        result = initial.detach().to(device=value.device, dtype=value.dtype, copy=True)
        number = min(len(value), len(result))
        result[:number] = value[:number]
        return result

    def describe(self) -> str:
        """Describe the correspondence in a line for the log."""
        parts = [
            f"{label}: {len(names)}{f' ({_listed(names)})' if names else ''}"
            for label, names in (("kept by name", self.kept), ("begin anew", self.new), ("not in the model", self.left))
        ]
        return "classes " + "; ".join(parts)


def find_rows(here: Sequence[str], stored: Mapping[str, Any]) -> ClassRows | None:
    """Match the classes of a model and of a checkpoint; None when the model's names are unknown."""
    return ClassRows.of(here, class_names_of(stored)) if here else None


def scores_objects(names: Sequence[str], name: str, encoder_heads: Mapping[str, str]) -> bool:
    """Whether a class head scores the objectness of proposals, regardless of the class.

    Args:
        names: of a model's tensors.
        name: of the head's tensor.
        encoder_heads: of `detrex_lite.checkpoint.load.encoder_heads`.
    """
    return any(tensor.startswith("queries.pos_trans.") for tensor in names) and name.startswith(
        tuple(encoder_heads.values())
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Map names that occur once to their positions."""
    return {name: index for index, name in enumerate(names) if list(names).count(name) == 1}


def _listed(names: Sequence[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
