"""Names, shapes and dtypes of the tensors in published checkpoints, for tests that need no weights.

Files ``*.json.xz`` contain variants and their states. A variant is a model of a published implementation; its names
come from building the model from a config, without weights. Files ``*.csv`` list the variant of each published file.
The note of a variant says which names differ from those of the model.
"""

import csv
import functools
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Variant:
    """The origin of the names of one model."""

    name: str
    repository: str
    """Owner and name on GitHub."""
    commit: str
    """Commit, or the release where the packaged release was read."""
    config: str
    """Config file, arguments or classes that build the model."""
    entry: str
    """Entry of the published file that holds the state; empty where the file is the state itself."""
    note: str


@dataclass(frozen=True)
class Checkpoint:
    """One published file."""

    project: str
    """Folder under ``projects/`` of the detector."""
    origin: str
    """``detrex``, ``paper``, ``transformers``, ``mmdet`` or ``mmdet2``, MMDetection's 3.x and 2.x."""
    name: str
    file: str
    """Last part of the address; not unique, as a folder can hold several."""
    variant: str


@functools.cache
def _contents() -> dict[str, dict[str, Any]]:
    """Variants by name, each with its state."""
    result = {}
    for file in sorted(FOLDER.glob("*.json.xz")):
        contents = json.loads(lzma.decompress(file.read_bytes()))
        for name, variant in contents["variants"].items():
            result[name] = {**variant, "state": contents["states"][variant["state"]]}
    return result


def _of(variant: str) -> dict[str, Any]:
    try:
        return _contents()[variant]
    except KeyError:
        raise KeyError(f"No variant {variant!r}; variants() lists them.") from None


def variants() -> list[str]:
    """Names of all variants, ``<implementation>/<model>``."""
    return list(_contents())


def source(variant: str) -> Variant:
    """The origin of the names of a variant. Raises KeyError for unknown variants."""
    fields = {key: value for key, value in _of(variant).items() if key != "state"}
    return Variant(name=variant, **fields)


def aliases(variant: str) -> dict[str, str]:
    """Maps repeated names of shared tensors to the first name."""
    return dict(_of(variant)["state"]["aliases"])


def state(variant: str, dtype: torch.dtype = torch.float32, device: str = "meta") -> dict[str, Tensor]:
    """The state dict of a variant, in the order of the model.

    Tensors have next to no memory: on ``meta`` they are empty, elsewhere they are zeros expanded from a scalar.
    Floating-point tensors have ``dtype``; integer ones stay int64. One tensor of several names is the same object
    under each. Raises KeyError for unknown variants.
    """
    stored = _of(variant)["state"]
    integers = set(stored["int64"])
    tensors: dict[str, Tensor] = {}
    for name, shape in stored["shapes"].items():
        tensor_dtype = torch.int64 if name in integers else dtype
        if name in stored["aliases"]:
            tensors[name] = tensors[stored["aliases"][name]]
        elif device == "meta":
            tensors[name] = torch.empty(shape, dtype=tensor_dtype, device=device)
        else:
            tensors[name] = torch.zeros((), dtype=tensor_dtype, device=device).expand(shape)
    return tensors


def checkpoints() -> list[Checkpoint]:
    """All published files, in the order of the tables."""
    rows = []
    for file in sorted(FOLDER.glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as table:
            rows += [Checkpoint(**row) for row in csv.DictReader(table)]
    return rows
