"""Loading weights, of this project or another, into a model."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import did_you_mean, few
from .classes import ClassRows, find_rows, scores_objects
from .files import CheckpointError, read_checkpoint
from .key_maps import ENCODER_HEAD, KEY_MAPS, KeyMap, split_part
from .report import LoadReport, Mismatch, names_or_parts

# Where training programs put the weights inside of what they save, and the running mean of the weights.
WEIGHTS = ("model", "state_dict", "module")
AVERAGED = ("ema", "ema_state", "model_ema", "ema_model", "ema_state_dict")

BACKBONE = "backbone."
CLASS_HEADS = "heads.class_embed."

# Not weights: counters, constants and class weights that projects store along with them.
NOT_WEIGHTS = re.compile(
    r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std|relative_position_index|total_ops|total_params)$"
    r"|^(criterion\.empty_weight|steps)$"
)

# What fine-tuning may begin anew: what depends on the classes and on the number of queries.
REPLACEABLE = re.compile(
    r"^(heads\.(group_heads\.\d+\.)?class_embed|denoising\.label_embedding"
    r"|queries\.(embedding|content|boxes|patterns)|branch\.(content|heads\.class_embed)"
    r"|collaboration\.heads\.\w+\.class_embed|collaboration\.heads\.rcnn\.bbox_embed)\."
)


def load_checkpoint(
    model: nn.Module,
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    source: str | KeyMap = "auto",
    *,
    fine_tune: bool = False,
    new_parts: Sequence[str] = (),
    class_names: Sequence[str] = (),
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
        fine_tune: whether the model may have other classes or another number of queries. Class heads, label
            embeddings and learned queries of another shape, or that the checkpoint lacks, then keep their initial
            values; nothing else does, unless the checkpoint is one of a backbone alone.
        new_parts: with `fine_tune`, beginnings of further names that the checkpoint may lack, of parts that the model
            has and the trained one had not, such as "transformer.decoder.relation".
        class_names: with `fine_tune`, the names of the model's K classes. Those that the checkpoint has as well keep
            their rows of class heads and label embeddings, wherever they are there; the others begin anew, also where
            the number of classes is the same. A checkpoint without names has those of COCO. Without `class_names`, rows
            stay where they are.
        trusted: see `read_checkpoint`.
        prefer_ema: take the running mean of the weights where the checkpoint has one.

    Raises:
        CheckpointError: when the file cannot be read, weights are not finite or no real numbers, `source` is unknown,
            two different tensors have one destination, shapes differ, or the checkpoint is of another model: without
            `fine_tune` when fewer than half of its tensors find a place and some of the model's get nothing, with
            `fine_tune` when it lacks what has to be there.
        ValueError: for `new_parts` or `class_names` without `fine_tune`, or a part that begins no name in the model.
    """
    if isinstance(path_or_state_dict, Mapping):
        state = model_state(path_or_state_dict, prefer_ema=prefer_ema)
        return _load(model, state, source, fine_tune, new_parts, find_rows(class_names, path_or_state_dict))
    stored = read_checkpoint(path_or_state_dict, trusted=trusted)
    try:
        state = model_state(stored, prefer_ema=prefer_ema)
        return _load(model, state, source, fine_tune, new_parts, find_rows(class_names, stored))
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path_or_state_dict)}: {error}") from None


def _load(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str | KeyMap,
    fine_tune: bool,
    new_parts: Sequence[str],
    rows: ClassRows | None,
) -> LoadReport:
    destination = _Destination(model)
    _check_new_parts(new_parts, fine_tune, destination)
    if rows is not None and not fine_tune:
        raise ValueError("class_names is for fine-tuning: pass fine_tune=True as well")
    report, values = _plan(state, _choose_map(source, state, destination), destination, rows)
    _require_this_model(report, state, destination)
    if fine_tune:
        _require_what_fine_tuning_needs(report, tuple(new_parts))
    else:
        _require_equal_shapes(report)
    require_usable(values, destination.tensors)
    with torch.no_grad():
        for name, value in values.items():
            destination.tensors[name].copy_(value)
    return report


def require_usable(values: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Refuse weights that a model must not get: whole or complex numbers in the place of real ones, nan, infinity.

    Args:
        values: name -> tensor of a checkpoint.
        model: name -> tensor of the model; other names are not looked at.

    Raises:
        CheckpointError: with the names.
    """
    pairs = [(name, value, model[name]) for name, value in values.items() if name in model]
    real = [(name, value, mine) for name, value, mine in pairs if mine.is_floating_point()]
    wrong = [f"{name} ({str(value.dtype)[6:]})" for name, value, _ in real if not value.is_floating_point()]
    if wrong:
        raise CheckpointError(
            f"weights must be real numbers with a fraction, and of this checkpoint these are not: {few(wrong)}"
        )
    wrong = [name for name, value, mine in real if not torch.isfinite(value.to(mine.dtype)).all()]
    if wrong:
        raise CheckpointError(
            f"weights are not finite (nan, infinity, or too large for the model): {few(wrong)}. The training that "
            "wrote them had failed, or the file was changed: take an earlier checkpoint"
        )


def model_state(stored: Mapping[str, Any], *, prefer_ema: bool = True) -> dict[str, Tensor]:
    """The model's tensors by name, out of what a checkpoint file holds.

    Args:
        stored: a state dict, or a dict that has one under "model", "state_dict" or "module", and perhaps a
            running mean of the weights under one of the names `AVERAGED`.
        prefer_ema: take the running mean where there is one; what it lacks still comes from the weights. Otherwise take
            the weights, which checkpoints of mmengine in training have in the place of the mean.

    Raises:
        CheckpointError: when there are no tensors, or one is sparse, quantized or an array of objects.
    """
    state = _tensors(stored)
    averaged = [stored[name] for name in AVERAGED if isinstance(stored.get(name), Mapping)]
    # mmengine exchanges the two when it saves: the mean is among the weights, ready to be used.
    is_exchanged = "message_hub" in stored
    if averaged and (prefer_ema != is_exchanged or not state):
        state.update(_tensors(averaged[0]))
    if not state:
        entries = f"its entries are: {few(list(stored))}" if stored else "it has no entries at all"
        raise CheckpointError(f"the checkpoint holds no weights; {entries}")
    return state


def _tensors(stored: Mapping[str, Any]) -> dict[str, Tensor]:
    for name in WEIGHTS:
        if isinstance(stored.get(name), Mapping):
            return _tensors(stored[name])
    state = {}
    for key, value in stored.items():
        if isinstance(value, np.ndarray | np.generic):
            try:
                value = torch.from_numpy(np.array(value))  # a copy: arrays out of pickles may be read-only
            except TypeError:
                raise CheckpointError(f"{key} is an array of {value.dtype}, which are no weights") from None
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_quantized:
                kind = "a quantized" if value.is_quantized else "a sparse"
                raise CheckpointError(f"{key} is {kind} tensor; weights are read from dense ones of real numbers")
            # Wrappers (DistributedDataParallel, torch.compile) put their own level in front of every name.
            state[re.sub(r"^((module|_orig_mod)\.)+", "", str(key))] = value
    return state


class _Destination:
    """The tensors of a model by name; names of one and the same tensor are resolved to the first of them."""

    def __init__(self, model: nn.Module):
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
        self.training_only: tuple[str, ...] = getattr(model, "training_only", ())
        state = model.state_dict(keep_vars=True)  # parameters themselves, which can be recognised
        self.tensors = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
        seen: dict[int, str] = {}
        self.first_name = {name: seen.setdefault(id(state[name]), name) for name in self.tensors}
        self.is_bare_backbone = not any(name.startswith(BACKBONE) for name in self.tensors)
        self.encoder_heads = encoder_heads(self.tensors)

    def place(self, key: str, key_map: KeyMap) -> str | None:
        """The name of `key` in the model, whether or not the model has it; None for what is no weight.

        A part of a tensor has its `[i/n]` (see `KeyMap`).
        """
        name = key_map.rename(key)
        if name is None:
            return None
        whole, index, total = split_part(name)
        if self.is_bare_backbone:
            whole = whole.removeprefix(BACKBONE)
        for encoder, numbered in self.encoder_heads.items():
            if whole.startswith(encoder):
                whole = numbered + whole.removeprefix(encoder)
        if whole not in self.tensors:
            return None if NOT_WEIGHTS.search(whole) else whole
        first = self.first_name[whole]
        return first if total == 1 else f"{first}[{index}/{total}]"


def encoder_heads(names: Collection[str]) -> dict[str, str]:
    """What begins the names of the encoder's heads: as key maps write it -> with its number in a model.

    Args:
        names: of a model's tensors. Without two stages there is no such head.
    """
    if not any(name.startswith("queries.proposals.") for name in names):
        return {}
    found = {}
    for head in ("heads.class_embed.", "heads.bbox_embed."):
        numbers = [int(name.removeprefix(head).split(".")[0]) for name in names if name.startswith(head)]
        if numbers:
            found[f"{head}{ENCODER_HEAD}."] = f"{head}{max(numbers)}."
    return found


def _choose_map(source: str | KeyMap, state: Mapping[str, Tensor], destination: _Destination) -> KeyMap:
    if isinstance(source, KeyMap):
        return source
    names = list(dict.fromkeys(key_map.name for key_map in KEY_MAPS))
    if source not in ("auto", *names):
        choices = f"; choices: {', '.join(['auto', *sorted(names)])}"
        raise CheckpointError(f"unknown source {source!r}{did_you_mean(source, ['auto', *names], otherwise=choices)}")

    def fit(key_map: KeyMap) -> tuple[int, int]:
        places = [destination.place(key, key_map) for key in state]
        placed = sum(place is not None and split_part(place)[0] in destination.tensors for place in places)
        return placed, sum(place is None for place in places)

    # Variants of one format need not be recognised when the format is asked for by name.
    asked = [key_map for key_map in KEY_MAPS if key_map.name == source]
    candidates = [key_map for key_map in asked or KEY_MAPS if key_map.matches(state)] or asked
    return max(candidates, key=fit)  # of equals the first wins, and this project's own names come first


def _plan(
    state: Mapping[str, Tensor], key_map: KeyMap, destination: _Destination, rows: ClassRows | None
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Find each tensor's place. Returns the report, and name in the model -> tensor."""
    report = LoadReport(key_map.name, training_only=destination.training_only)
    # name in the model -> which part of how many -> the keys that hold it: several when the other project shares it
    sources: dict[str, dict[tuple[int, int], list[str]]] = {}
    for key in state:
        place = destination.place(key, key_map)
        if place is None:
            continue
        name, index, total = split_part(place)
        if name in destination.tensors:
            sources.setdefault(name, {}).setdefault((index, total), []).append(key)
        else:
            report.unexpected.append(key)
            report.names_of_unexpected[key] = name
    values: dict[str, Tensor] = {}
    collisions = []
    for name, parts in sources.items():
        for keys in parts.values():
            collisions += [
                f"{keys[0]} and {key} -> {name}" for key in keys[1:] if not torch.equal(state[keys[0]], state[key])
            ]
        value = _join(state, parts)
        keys = [key for part in parts.values() for key in part]
        if value is None:  # counts as missing below, with what there is of it left over
            report.unexpected += keys
            report.names_of_unexpected.update(dict.fromkeys(keys, name))
            continue
        conversion = key_map.conversion(name, sources.keys())
        shape = destination.tensors[name].shape
        arranged = _by_class_names(name, value, conversion, destination, rows)
        if arranged is not None:
            value = arranged
            report.rows, report.arranged = rows, [*report.arranged, name]
        elif conversion is not None:
            value = conversion.read(value, shape)
        if value.shape != shape:
            report.mismatched.append(Mismatch(keys[0], name, tuple(value.shape), tuple(shape)))
            continue
        values[name] = value
        report.loaded.update((key, [name]) for key in keys)
    if collisions:
        raise CheckpointError(f"different tensors of the checkpoint have one place in the model: {few(collisions)}")
    if destination.is_bare_backbone:
        report.names_of_unexpected = {}  # it takes its part of a checkpoint, whatever else is there
    firsts = dict.fromkeys(destination.first_name.values())
    if key_map.repeated_heads and not destination.encoder_heads:
        _repeat_class_head(report, values, [name for name in firsts if name not in sources])
    done = {*values, *(one.name for one in report.mismatched)}
    report.missing = [name for name in firsts if name not in done and not NOT_WEIGHTS.search(name)]
    return report, values


def _by_class_names(
    name: str, value: Tensor, conversion: Any, destination: _Destination, rows: ClassRows | None
) -> Tensor | None:
    """A tensor with its rows in the order of the model's classes; None where rows are not arranged by names."""
    if rows is None or rows.is_same:
        return None
    initial = destination.tensors[name]
    shape = rows.source_shape(name, initial.shape)
    if shape is None:
        return None
    if conversion is not None:
        value = conversion.read(value, torch.Size(shape))
    if tuple(value.shape) != shape:
        return None
    if scores_objects(tuple(destination.tensors), name, destination.encoder_heads):
        return rows.arranged_for_objects(value, initial)
    # Where no class stays, tensors of other shapes are reported as such.
    return rows.arranged(value, initial) if rows.kept or shape == tuple(initial.shape) else None


def _join(state: Mapping[str, Tensor], parts: Mapping[tuple[int, int], list[str]]) -> Tensor | None:
    """One tensor of all its parts; None while parts are missing."""
    totals = {total for _, total in parts}
    if len(totals) > 1 or len(parts) < max(totals):
        return None
    ordered = [state[keys[0]] for _, keys in sorted(parts.items())]
    return ordered[0] if len(ordered) == 1 else torch.cat(ordered)


def _repeat_class_head(report: LoadReport, values: dict[str, Tensor], lacking: Sequence[str]) -> None:
    """Give the class head of the first layer, where it is the only one, to all layers."""
    if any(name.startswith(CLASS_HEADS) and not name.startswith(f"{CLASS_HEADS}0.") for name in values):
        return
    for names in report.loaded.values():
        _, first, parameter = names[0].rpartition(f"{CLASS_HEADS}0.")
        repeated = [name for name in lacking if first and re.fullmatch(rf"{CLASS_HEADS}\d+\.{parameter}", name)]
        values.update((name, values[names[0]]) for name in repeated)
        names += repeated


def _check_new_parts(new_parts: Sequence[str], fine_tune: bool, destination: _Destination) -> None:
    if new_parts and not fine_tune:
        raise ValueError(f"new_parts={list(new_parts)} is for fine-tuning: pass fine_tune=True as well")
    for part in new_parts:
        if not any(name.startswith(part) for name in destination.tensors):
            modules = {name.rpartition(".")[0] for name in destination.tensors}
            raise ValueError(
                f"new_parts has {part!r}, with which no name in the model begins{did_you_mean(part, modules)}"
            )


def _require_what_fine_tuning_needs(report: LoadReport, new_parts: tuple[str, ...]) -> None:
    """Refuse a checkpoint that leaves more of the model as initialised than other classes and queries explain."""
    mismatched = [
        one for one in report.mismatched if not (REPLACEABLE.match(one.name) or one.name.startswith(new_parts))
    ]
    missing = [name for name in report.missing if not (REPLACEABLE.match(name) or name.startswith(new_parts))]
    number = len(mismatched) + len(missing)
    if not number or _is_whole_backbone(report):
        return
    listed = [*names_or_parts(missing), *names_or_parts([str(one) for one in mismatched])]
    an_example = [*missing, *(one.name for one in mismatched)][0].rpartition(".")[0]
    raise CheckpointError(
        f"{number} tensors of the model would stay as initialised, and they are not of classes or queries alone: "
        f"{', '.join(listed)}\n  Of the checkpoint (names of {report.key_map}), {len(report.loaded)} tensors fit and "
        f"{len(report.unexpected)} have no place"
        + (f": {', '.join(names_or_parts(report.unexpected))}" if report.unexpected else "")
        + "\n  Take the config that the checkpoint was trained with, or a checkpoint of this one. If the model has "
        f"parts that are new, name them: new_parts=[{an_example!r}, ..] (train.init_new_parts in a config)"
    )


def _is_whole_backbone(report: LoadReport) -> bool:
    """Whether the checkpoint is one of a backbone alone, and holds all of it."""
    names = [name for names in report.loaded.values() for name in names]
    lacking = [*report.missing, *(one.name for one in report.mismatched)]
    return (
        bool(names)
        and not report.unexpected
        and all(name.startswith(BACKBONE) for name in names)
        and not any(name.startswith(BACKBONE) for name in lacking)
    )


def _require_this_model(report: LoadReport, state: Mapping[str, Tensor], destination: _Destination) -> None:
    """Refuse a checkpoint of which little fits."""
    weights = len(report.loaded) + len(report.mismatched) + len(report.unexpected)
    placed = len(report.loaded) + len(report.mismatched)
    whole_model = not report.missing and not report.mismatched
    if not whole_model and (placed == 0 or 2 * placed < weights):
        raise CheckpointError(
            f"this is a checkpoint of another model: {placed} of its {weights} tensors find a place (names of "
            f"{report.key_map})\n  in the checkpoint: {few(report.unexpected or list(state))}\n"
            f"  in the model: {few(report.missing or list(destination.tensors))}"
        )


def _require_equal_shapes(report: LoadReport) -> None:
    if not report.mismatched:
        return
    listed = "\n".join(f"  {one}" for one in report.mismatched)
    advice = ["Take the config that the checkpoint was trained with"]
    for what, pattern, key in (
        ("class heads have", r"heads\.class_embed\.", "model.num_classes"),
        ("learned queries are", r"queries\.(embedding|content|boxes)\.", "model.num_queries"),
    ):
        rows = {(one.source_shape[0], one.model_shape[0]) for one in report.mismatched if re.match(pattern, one.name)}
        if len(rows) == 1:
            (there, here) = rows.pop()
            advice.append(f"its {what} {there} rows, the model's {here}: see {key}")
    advice.append(
        "To fine-tune with other classes or another number of queries, pass fine_tune=True, as training with "
        "train.init_checkpoint does"
    )
    raise CheckpointError(
        f"{len(report.mismatched)} tensors have another shape in the checkpoint than in the model:\n{listed}\n"
        + ". ".join(f"{one[0].upper()}{one[1:]}" for one in advice)
    )
