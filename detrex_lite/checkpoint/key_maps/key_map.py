"""The language of key maps, which translate parameter names between another project and this one."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from torch import Size, Tensor

Rules = tuple[tuple[str, str], ...]

# Name of the encoder's head in rules; its number in a model is the number of decoder layers: heads.class_embed.encoder.
ENCODER_HEAD = "encoder"
_PART = re.compile(r"\[(\d+)/(\d+)\]$")


class Conversion(Protocol):
    """A tensor that differs from the other project's tensor in more than its name."""

    def applies(self, name: str, names: Collection[str]) -> bool:
        """Whether to convert `name`, this project's name of one of the tensors `names` of a checkpoint."""

    def read(self, value: Tensor, shape: Size) -> Tensor:
        """Convert the other project's tensor to this project's form, if that has the given shape; else return it."""

    def write(self, name: str, value: Tensor) -> Tensor:
        """Convert this project's tensor `name` to the other project's form, the inverse of `read`."""


class Condition(Protocol):
    """A property of a detector that can be seen from its weights."""

    def __call__(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a detector with these weights, under this project's names, has the property."""


@dataclass(frozen=True)
class Copy:
    """A second name of tensors that the other project's state dict contains twice.

    Attributes:
        second: template of the second name, which is translated to the first name when reading.
        first: template of the first name, which is repeated under the second name when writing.
        when: condition on the detector for writing the second name; None for always.
    """

    second: str
    first: str
    when: Condition | None = None


@dataclass(frozen=True)
class KeyMap:
    """A translation between another project's parameter names and this project's, in both directions.

    The first rule that matches a name translates it. Both sides of a rule are templates: `#` matches an integer and `@`
    a word (letters, digits and underscores); the n-th one on one side corresponds to the n-th one on the other. A
    template that ends with a dot matches all names with that prefix. On this project's side, `[i/n]` at the end of a
    template means the i-th of n equal parts of a tensor along its first dimension, so that the rules
    ("attn.q.weight", "in_proj_weight[0/3]"), ... join three tensors; `heads.class_embed.encoder.` is the encoder's
    head, regardless of its number.

    Attributes:
        name: the name of the format in logs and for `load_checkpoint(source=...)`. Maps with the same name are variants
            of one format.
        signature: templates; a checkpoint has this format if some name matches each of them.
        rules: (template of the other project, template of this project) pairs.
        copies: names that the other project's checkpoints contain twice.
        ignored: templates of names that are not weights of a detector and are skipped without a message.
        conversions: conversions of tensors that differ in more than their name; the first applicable one is used.
        one_head: whether a single class head and box head for all layers are stored, also for the encoder if no rule
            names separate heads.
        entry: the key under which the other project's programs look for weights in a file of torch.save; "" if they
            use the whole file.
        repeated_heads: whether class heads may be stored for the first layer only and shared by all layers.
        shared: (second, first) pairs of templates of this project's names: tensors with both names here are stored only
            under the first name there.
        exhaustive: whether the rules cover all weights of the format's detectors, so that other weights belong to a
            different detector.
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
        """Whether a checkpoint with these keys may have this format."""
        keys = list(keys)
        return all(any(_pattern(template).match(key) for key in keys) for template in self.signature)

    def rename(self, key: str) -> str | None:
        """Return this project's name for `key`, possibly with `[i/n]`; None when it is not a detector's weight."""
        if any(_pattern(template).match(key) for template in self.ignored):
            return None
        for copy in self.copies:
            key = translate(key, copy.second, copy.first) or key
        return next(filter(None, (translate(key, foreign, native) for foreign, native in self.rules)), key)

    def rename_back(self, name: str) -> str:
        """Return the other project's name for this project's `name`."""
        return next(filter(None, (translate(name, native, foreign) for foreign, native in self.rules)), name)

    def conversion(self, name: str, names: Collection[str]) -> Conversion | None:
        """Return the conversion of the tensor `name` (this project's) of a checkpoint with tensors `names`, if any."""
        return next((conversion for conversion in self.conversions if conversion.applies(name, names)), None)


def translate(name: str, template: str, to: str) -> str | None:
    """Replace the part of `name` that matches `template` by the template `to`; None without a match.

    >>> translate("layers.3.norm1.weight", "layers.#.norm1.", "layers.#.norms.0.")
    'layers.3.norms.0.weight'
    """
    match = _pattern(template).match(name)
    if match is None:
        return None
    words = iter(match.groups())
    return re.sub("[#@]", lambda _: next(words), to) + name[match.end() :]


def matches(name: str, template: str) -> bool:
    """Whether `template` matches `name`."""
    return _pattern(template).match(name) is not None


def split_part(name: str) -> tuple[str, int, int]:
    """Split a name into the name without `[i/n]`, i and n; (name, 0, 1) for a whole tensor."""
    match = _PART.search(name)
    return (name, 0, 1) if match is None else (name[: match.start()], int(match[1]), int(match[2]))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = {"#": r"(\d+)", "@": r"([A-Za-z_]\w*?)"}
    pattern = "".join(pieces.get(piece, re.escape(piece)) for piece in re.split("([#@])", template))
    return re.compile(pattern if template.endswith(".") or not template else rf"{pattern}\Z")
