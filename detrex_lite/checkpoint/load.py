"""Loading weights, of this project or another, into a model."""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import did_you_mean
from .files import CheckpointError, read_checkpoint
from .key_maps import KEY_MAPS, NOT_WEIGHTS, KeyMap
from .report import LoadReport, Mismatch

# Where training programs put the weights inside of what they save, and the running mean of the weights.
WEIGHTS = ("model", "state_dict", "module")
AVERAGED = ("ema", "ema_state", "model_ema")

BACKBONE = "backbone."


def load_checkpoint(
    model: nn.Module,
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    source: str | KeyMap = "auto",
    *,
    allow_mismatch: bool = False,
    trusted: bool = False,
    prefer_ema: bool = True,
) -> LoadReport:
    """Copy the weights of a checkpoint into `model`, in the model's dtype and on its device.

    The model changes only when everything fits: an error leaves it as it was.

    Args:
        model: a detector, or a bare backbone, which takes the part of a checkpoint under `backbone.`.
        path_or_state_dict: a file (see `read_checkpoint`), its content, or a state dict.
        source: whose names the checkpoint has: the name of a map in `KEY_MAPS`, a `KeyMap`, or "auto" for the
            one of `KEY_MAPS` that finds a place for the most tensors.
        allow_mismatch: leave tensors of another shape at their initial values instead of raising, to
            fine-tune with another number of classes or queries.
        trusted: see `read_checkpoint`.
        prefer_ema: take the running mean of the weights where the checkpoint has one.

    Raises:
        CheckpointError: when the file cannot be read, `source` is unknown, shapes differ, two different
            tensors have one destination, or the checkpoint is of another model: fewer than half of its
            tensors find a place, and some of the model's get nothing.
    """
    if isinstance(path_or_state_dict, Mapping):
        return _load(model, model_state(path_or_state_dict, prefer_ema=prefer_ema), source, allow_mismatch)
    stored = read_checkpoint(path_or_state_dict, trusted=trusted)
    try:
        return _load(model, model_state(stored, prefer_ema=prefer_ema), source, allow_mismatch)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path_or_state_dict)}: {error}") from None


def _load(model: nn.Module, state: Mapping[str, Tensor], source: str | KeyMap, allow_mismatch: bool) -> LoadReport:
    destination = _Destination(model)
    report, values = _plan(state, _choose_map(source, state, destination), destination)
    _require_this_model(report, state, destination, allow_mismatch)
    if report.mismatched and not allow_mismatch:
        listed = "\n".join(f"  {one}" for one in report.mismatched)
        raise CheckpointError(
            f"{len(report.mismatched)} tensors have another shape in the checkpoint than in the model:\n"
            f"{listed}\nTo fine-tune with another number of classes or queries, pass allow_mismatch=True, as "
            "train.init_checkpoint does: these tensors then keep their initial values"
        )
    with torch.no_grad():
        for name, value in values.items():
            destination.tensors[name].copy_(value)
    return report


def model_state(stored: Mapping[str, Any], *, prefer_ema: bool = True) -> dict[str, Tensor]:
    """The model's tensors by name, out of what a checkpoint file holds.

    Args:
        stored: a state dict, or a dict that has one under "model", "state_dict" or "module", and perhaps a
            running mean of the weights under "ema", "ema_state" or "model_ema".
        prefer_ema: take the running mean where there is one; what it lacks still comes from the weights.

    Raises:
        CheckpointError: when there are no tensors.
    """
    state = _tensors(stored)
    averaged = [stored[name] for name in AVERAGED if isinstance(stored.get(name), Mapping)]
    if averaged and (prefer_ema or not state):
        state.update(_tensors(averaged[0]))
    if not state:
        raise CheckpointError(f"the checkpoint holds no weights; its entries are: {_few(list(stored))}")
    return state


def _tensors(stored: Mapping[str, Any]) -> dict[str, Tensor]:
    for name in WEIGHTS:
        if isinstance(stored.get(name), Mapping):
            return _tensors(stored[name])
    state = {}
    for key, value in stored.items():
        if isinstance(value, np.ndarray | np.generic):
            value = torch.from_numpy(np.array(value))  # a copy: arrays out of pickles may be read-only
        if isinstance(value, Tensor):
            # Wrappers (DistributedDataParallel, torch.compile) put their own level in front of every name.
            state[re.sub(r"^((module|_orig_mod)\.)+", "", str(key))] = value
    return state


class _Destination:
    """The tensors of a model by name; names of one and the same tensor are resolved to the first of them."""

    def __init__(self, model: nn.Module):
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
        self.tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        self.is_bare_backbone = not any(name.startswith(BACKBONE) for name in self.tensors)
        seen: dict[Any, str] = {}
        self.first_name = {}
        for name, value in self.tensors.items():
            # Empty tensors all have the address 0 and are never the same.
            identity = (value.data_ptr(), value.shape) if value.numel() else name
            self.first_name[name] = seen.setdefault(identity, name)

    def place(self, key: str, key_map: KeyMap) -> str | None:
        """The name of `key` in the model, whether or not the model has it; None for what is no weight."""
        name = key_map.rename(key)
        if name is None:
            return None
        if self.is_bare_backbone:
            name = name.removeprefix(BACKBONE)
        if name not in self.tensors:
            return None if NOT_WEIGHTS.search(name) else name
        return self.first_name[name]


def _choose_map(source: str | KeyMap, state: Mapping[str, Tensor], destination: _Destination) -> KeyMap:
    if isinstance(source, KeyMap):
        return source
    by_name = {key_map.name: key_map for key_map in KEY_MAPS}
    if source != "auto":
        if source not in by_name:
            raise CheckpointError(f"unknown source {source!r}{did_you_mean(source, ['auto', *by_name])}")
        return by_name[source]

    def fit(key_map: KeyMap) -> tuple[int, int]:
        names = [destination.place(key, key_map) for key in state]
        placed = sum(name in destination.tensors for name in names)
        return placed, sum(name is None for name in names)

    # Of equals the first wins, and this project's own names come first.
    return max((key_map for key_map in KEY_MAPS if key_map.matches(state)), key=fit)


def _plan(
    state: Mapping[str, Tensor], key_map: KeyMap, destination: _Destination
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Find each tensor's place. Returns the report, and name in the model -> tensor."""
    report = LoadReport(key_map.name)
    values: dict[str, Tensor] = {}
    source_of: dict[str, str] = {}
    collisions = []
    for key, value in state.items():
        name = destination.place(key, key_map)
        if name is None:
            continue
        if name not in destination.tensors:
            report.unexpected.append(key)
            continue
        shape = destination.tensors[name].shape
        value = key_map.adapt(name, value, shape)
        if value.shape != shape:
            report.mismatched.append(Mismatch(key, name, tuple(value.shape), tuple(shape)))
            continue
        # A tensor that the other project shares under several names comes several times: no harm when equal.
        if name in values and not torch.equal(values[name], value):
            collisions.append(f"{source_of[name]} and {key} -> {name}")
        values[name] = value
        source_of[name] = key
        report.loaded[key] = [name]
    if collisions:
        raise CheckpointError(f"different tensors of the checkpoint have one place in the model: {_few(collisions)}")
    done = {*values, *(one.name for one in report.mismatched)}
    firsts = dict.fromkeys(destination.first_name.values())
    report.missing = [name for name in firsts if name not in done and not NOT_WEIGHTS.search(name)]
    return report, values


def _require_this_model(
    report: LoadReport, state: Mapping[str, Tensor], destination: _Destination, allow_mismatch: bool
) -> None:
    weights = len(report.loaded) + len(report.mismatched) + len(report.unexpected)
    # A wrong shape is reported as such, but where it is allowed, a tensor left out has found no place.
    placed = len(report.loaded) if allow_mismatch else len(report.loaded) + len(report.mismatched)
    whole_model = not report.missing and not report.mismatched
    if whole_model or (placed > 0 and 2 * placed >= weights):
        return
    raise CheckpointError(
        f"this is a checkpoint of another model: {placed} of its {weights} tensors find a place (names of "
        f"{report.key_map})\n  in the checkpoint: {_few(report.unexpected or list(state))}\n"
        f"  in the model: {_few(report.missing or list(destination.tensors))}"
    )


def _few(names: list[str], limit: int = 5) -> str:
    return ", ".join(map(str, names[:limit])) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
