"""The language of key maps: how one project's names of weights translate to this project's, and back."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from torch import Size, Tensor

Rules = tuple[tuple[str, str], ...]

# What a rule calls the encoder's head, whose number here is that of the decoder's layers: heads.class_embed.encoder.
ENCODER_HEAD = "encoder"
_PART = re.compile(r"\[(\d+)/(\d+)\]$")


class Conversion(Protocol):
    """A tensor that differs from the other project's in more than its name."""

    def applies(self, name: str, names: Collection[str]) -> bool:
        """Whether it converts `name`, this project's name of one of the tensors `names` of a checkpoint."""

    def read(self, value: Tensor, shape: Size) -> Tensor:
        """The other project's tensor as this project stores it, if that has the wanted shape; else `value`."""

    def write(self, name: str, value: Tensor) -> Tensor:
        """This project's tensor `name` as the other project stores it: the inverse of `read`."""


class Condition(Protocol):
    """A property of a detector that its weights show."""

    def __call__(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the detector with these weights, under this project's names, has it."""


@dataclass(frozen=True)
class Copy:
    """A second name for tensors that the other project's state dict lists twice.

    Attributes:
        second: template of the second name. Reading takes it for the first one.
        first: template of the first name. Writing repeats it under the second one,
        when: if the detector meets this condition; None for always.
    """

    second: str
    first: str
    when: Condition | None = None


@dataclass(frozen=True)
class KeyMap:
    """A translation between another project's names of weights and this project's, in both directions.

    A name is translated by the first rule that matches it. Both sides of a rule are templates: `#` stands for a whole
    number and `@` for a word (letters, digits and underscores), the n-th on one side for the n-th on the other; a
    template that ends with a dot stands for all names that begin so. On this project's side, `[i/n]` at the end of a
    template means the i-th of n equal parts of a tensor along its first dimension, so that the rules
    ("attn.q.weight", "in_proj_weight[0/3]"), .. join three tensors; `heads.class_embed.encoder.` is the encoder's
    head, whatever its number.

    Attributes:
        name: what the format is called in logs and by `load_checkpoint(source=...)`. Maps with one name are variants
            of one format.
        signature: templates; a checkpoint is of this kind if it has a name for each of them.
        rules: (template of the other project, template of this project) pairs.
        copies: names that the other project's checkpoints hold a second time.
        ignored: templates of names that are no weights of a detector, left out in silence.
        conversions: of tensors that differ in more than their name; the first that applies is made.
        one_head: whether one class head and one box head, for all layers, are stored once; for the encoder too, if no
            rule names heads of its own.
        entry: what the other project's programs look for weights under, in a file of torch.save; "" if they take the
            whole file.
        repeated_heads: whether class heads may be stored for the first layer alone, which all layers then have.
        shared: (second, first) pairs of templates of this project's names: what is here under both is there under the
            first alone.
        exhaustive: whether the rules name all weights of its detectors: what none of them names is of no such detector.
    """

    name: str
    signature: tuple[str, ...]
    rules: Rules
    copies: tuple[Copy, ...] = ()
    ignored: tuple[str, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    one_head: bool = False
    entry: str = "model"
    repeated_heads: bool = False
    shared: Rules = ()
    exhaustive: bool = False

    def matches(self, keys: Iterable[str]) -> bool:
        """Whether a checkpoint with these keys may be of this kind."""
        keys = list(keys)
        return all(any(_pattern(template).match(key) for key in keys) for template in self.signature)

    def rename(self, key: str) -> str | None:
        """This project's name for `key`, perhaps with `[i/n]`; None when it is no weight that a detector has."""
        if any(_pattern(template).match(key) for template in self.ignored):
            return None
        for copy in self.copies:
            key = translate(key, copy.second, copy.first) or key
        return next(filter(None, (translate(key, theirs, ours) for theirs, ours in self.rules)), key)

    def rename_back(self, name: str) -> str:
        """The other project's name for this project's `name`."""
        return next(filter(None, (translate(name, ours, theirs) for theirs, ours in self.rules)), name)

    def conversion(self, name: str, names: Collection[str]) -> Conversion | None:
        """How the tensor `name` (this project's) of a checkpoint with the tensors `names` is converted, if it is."""
        return next((one for one in self.conversions if one.applies(name, names)), None)


def translate(name: str, template: str, to: str) -> str | None:
    """`name` with what `template` matches replaced by the template `to`; None where it does not match.

    >>> translate("layers.3.norm1.weight", "layers.#.norm1.", "layers.#.norms.0.")
    'layers.3.norms.0.weight'
    """
    found = _pattern(template).match(name)
    if found is None:
        return None
    words = iter(found.groups())
    return re.sub("[#@]", lambda _: next(words), to) + name[found.end() :]


def matches(name: str, template: str) -> bool:
    """Whether `template` stands for `name`."""
    return _pattern(template).match(name) is not None


def split_part(name: str) -> tuple[str, int, int]:
    """A name without its `[i/n]`, i and n; (name, 0, 1) for a whole tensor."""
    found = _PART.search(name)
    return (name, 0, 1) if found is None else (name[: found.start()], int(found[1]), int(found[2]))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = {"#": r"(\d+)", "@": r"([A-Za-z_]\w*?)"}
    pattern = "".join(pieces.get(piece, re.escape(piece)) for piece in re.split("([#@])", template))
    return re.compile(pattern if template.endswith(".") or not template else rf"{pattern}\Z")
