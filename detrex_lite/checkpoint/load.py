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

# Keys under which training programs store the weights, and the running mean of the weights.
WEIGHTS = ("model", "state_dict", "module")
AVERAGED = ("ema", "ema_state", "model_ema", "ema_model", "ema_state_dict")

BACKBONE = "backbone."
CLASS_HEADS = "heads.class_embed."

# Names of entries that are not weights: counters, constants and class weights.
NOT_WEIGHTS = re.compile(
    r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std|relative_position_index|total_ops|total_params)$"
    r"|^(criterion\.empty_weight|steps)$"
)

# Parameters that fine-tuning may initialise: those that depend on the classes and on the number of queries.
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

    The model changes only if everything fits; an error leaves it unchanged.

    Args:
        model: a detector, or a bare backbone, which takes the part of a checkpoint under `backbone.`.
        path_or_state_dict: a file (see `read_checkpoint`), its content, or a state dict.
        source: the format of the names: the name of a map in `KEY_MAPS`, a `KeyMap`, or "auto" for the map of
            `KEY_MAPS` that matches the most tensors.
        fine_tune: whether the model may have different classes or another number of queries. Class heads, label
            embeddings and learned queries that are missing or have another shape then keep their initial values; no
            other tensor does, unless the checkpoint is one of a backbone alone.
        new_parts: with `fine_tune`, prefixes of further names that the checkpoint may lack, for parts that the trained
            model did not have, such as "transformer.decoder.relation".
        class_names: with `fine_tune`, the names of the model's K classes. Classes that the checkpoint has as well keep
            their rows of class heads and label embeddings, wherever they are in the checkpoint; other classes are
            initialised, even if the number of classes is the same. A checkpoint without names is assumed to have those
            of COCO. Without `class_names`, rows keep their positions.
        trusted: see `read_checkpoint`.
        prefer_ema: use the running mean of the weights if the checkpoint has one.

    Raises:
        CheckpointError: when the file cannot be read, weights are not finite real numbers, `source` is unknown, two
            different tensors map to the same name, shapes differ, or the checkpoint is of a different model: without
            `fine_tune` when fewer than half of its tensors match and some of the model's are missing, with `fine_tune`
            when it lacks required tensors.
        ValueError: for `new_parts` or `class_names` without `fine_tune`, or a prefix that matches no name in the model.
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
    """Raise an error for weights that a model cannot use: integers or complex numbers, nan, infinity.

    Args:
        values: tensors of a checkpoint by name.
        model: tensors of the model by name; other names are ignored.

    Raises:
        CheckpointError: an error that lists the names.
    """
    pairs = [(name, value, model[name]) for name, value in values.items() if name in model]
    real = [(name, value, model_tensor) for name, value, model_tensor in pairs if model_tensor.is_floating_point()]
    wrong = [f"{name} ({str(value.dtype)[6:]})" for name, value, _ in real if not value.is_floating_point()]
    if wrong:
        raise CheckpointError(
            f"weights must be floating-point numbers, but these tensors of the checkpoint are not: {few(wrong)}"
        )
    wrong = [name for name, value, model_tensor in real if not torch.isfinite(value.to(model_tensor.dtype)).all()]
    if wrong:
        raise CheckpointError(
            f"weights are not finite (nan, infinity, or too large for the model): {few(wrong)}. The training that "
            "wrote them had failed, or the file was changed: use an earlier checkpoint"
        )


def model_state(stored: Mapping[str, Any], *, prefer_ema: bool = True) -> dict[str, Tensor]:
    """Extract the model's tensors by name from the content of a checkpoint file.

    Args:
        stored: a state dict, or a dict that has one under "model", "state_dict" or "module", and possibly a running
            mean of the weights under one of the names in `AVERAGED`.
        prefer_ema: use the running mean if there is one; tensors that it lacks come from the weights. Otherwise use the
            weights, which checkpoints of mmengine store in place of the mean.

    Raises:
        CheckpointError: when there are no tensors, or one is sparse, quantized or an array of objects.
    """
    state = _tensors(stored)
    averaged = [stored[name] for name in AVERAGED if isinstance(stored.get(name), Mapping)]
    # mmengine swaps the two when it saves: the mean is stored as the weights, ready for use.
    is_exchanged = "message_hub" in stored
    if averaged and (prefer_ema != is_exchanged or not state):
        state.update(_tensors(averaged[0]))
    if not state:
        entries = f"its entries are: {few(list(stored))}" if stored else "it is empty"
        raise CheckpointError(f"the checkpoint contains no weights; {entries}")
    return state


def _tensors(stored: Mapping[str, Any]) -> dict[str, Tensor]:
    for name in WEIGHTS:
        if isinstance(stored.get(name), Mapping):
            return _tensors(stored[name])
    state = {}
    for key, value in stored.items():
        if isinstance(value, np.ndarray | np.generic):
            try:
                value = torch.from_numpy(np.array(value))  # copied, because arrays from pickles may be read-only
            except TypeError:
                raise CheckpointError(f"{key} is an array of {value.dtype}, which cannot be weights") from None
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_quantized:
                kind = "a quantized" if value.is_quantized else "a sparse"
                raise CheckpointError(f"{key} is {kind} tensor; weights must be dense floating-point tensors")
            # Wrappers (DistributedDataParallel, torch.compile) add a prefix to every name.
            state[re.sub(r"^((module|_orig_mod)\.)+", "", str(key))] = value
    return state


class _Destination:
    """The tensors of a model by name; several names of the same tensor are resolved to the first one."""

    def __init__(self, model: nn.Module):
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        model = getattr(model, "_orig_mod", model)  # the module inside torch.compile's wrapper
        self.training_only: tuple[str, ...] = getattr(model, "training_only", ())
        state = model.state_dict(keep_vars=True)  # the parameters themselves, so that shared ones are recognised
        self.tensors = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
        names_by_id: dict[int, str] = {}
        self.first_name = {name: names_by_id.setdefault(id(state[name]), name) for name in self.tensors}
        self.is_bare_backbone = not any(name.startswith(BACKBONE) for name in self.tensors)
        self.encoder_heads = encoder_heads(self.tensors)

    def place(self, key: str, key_map: KeyMap) -> str | None:
        """Return the name of `key` in the model, whether or not the model has it; None if it is not a weight.

        The name of a part of a tensor has the suffix `[i/n]` (see `KeyMap`).
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
    """Map the prefixes of the encoder's heads in key maps to those in a model, which have a number.

    Args:
        names: names of a model's tensors. Without two stages there is no such head.
    """
    if not any(name.startswith("queries.proposals.") for name in names):
        return {}
    heads = {}
    for head in ("heads.class_embed.", "heads.bbox_embed."):
        numbers = [int(name.removeprefix(head).split(".")[0]) for name in names if name.startswith(head)]
        if numbers:
            heads[f"{head}{ENCODER_HEAD}."] = f"{head}{max(numbers)}."
    return heads


def _choose_map(source: str | KeyMap, state: Mapping[str, Tensor], destination: _Destination) -> KeyMap:
    if isinstance(source, KeyMap):
        return source
    names = list(dict.fromkeys(key_map.name for key_map in KEY_MAPS))
    if source not in ("auto", *names):
        choices = f"; choices: {', '.join(['auto', *sorted(names)])}"
        raise CheckpointError(f"unknown source {source!r}{did_you_mean(source, ['auto', *names], otherwise=choices)}")

    def fit(key_map: KeyMap) -> tuple[int, int]:
        names = [destination.place(key, key_map) for key in state]
        placed = sum(name is not None and split_part(name)[0] in destination.tensors for name in names)
        return placed, sum(name is None for name in names)

    # If a format is requested by name, its variants need not match the signature.
    requested = [key_map for key_map in KEY_MAPS if key_map.name == source]
    candidates = [key_map for key_map in requested or KEY_MAPS if key_map.matches(state)] or requested
    return max(candidates, key=fit)  # the first map wins a tie, and this project's own names come first


def _plan(
    state: Mapping[str, Tensor], key_map: KeyMap, destination: _Destination, rows: ClassRows | None
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Translate the names of all tensors. Returns the report, and the tensors by their names in the model."""
    report = LoadReport(key_map.name, training_only=destination.training_only)
    # Maps names in the model to parts (index, total) to the keys of the part, several if the other project shares it.
    sources: dict[str, dict[tuple[int, int], list[str]]] = {}
    for key in state:
        native = destination.place(key, key_map)
        if native is None:
            continue
        name, index, total = split_part(native)
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
        if value is None:  # counted as missing below, and the existing parts as unexpected
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
        raise CheckpointError(f"different tensors of the checkpoint have the same name in the model: {few(collisions)}")
    if destination.is_bare_backbone:
        report.names_of_unexpected = {}  # a backbone may take its part of any checkpoint
    firsts = dict.fromkeys(destination.first_name.values())
    if key_map.repeated_heads and not destination.encoder_heads:
        _repeat_class_head(report, values, [name for name in firsts if name not in sources])
    handled = {*values, *(mismatch.name for mismatch in report.mismatched)}
    report.missing = [name for name in firsts if name not in handled and not NOT_WEIGHTS.search(name)]
    return report, values


def _by_class_names(
    name: str, value: Tensor, conversion: Any, destination: _Destination, rows: ClassRows | None
) -> Tensor | None:
    """Arrange the rows of a tensor in the order of the model's classes; None if it has no rows to arrange by names."""
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
    """Join the parts of a tensor; None if parts are missing."""
    totals = {total for _, total in parts}
    if len(totals) > 1 or len(parts) < max(totals):
        return None
    ordered = [state[keys[0]] for _, keys in sorted(parts.items())]
    return ordered[0] if len(ordered) == 1 else torch.cat(ordered)


def _repeat_class_head(report: LoadReport, values: dict[str, Tensor], missing: Sequence[str]) -> None:
    """Use the first layer's class head for all layers, if it is the only one."""
    if any(name.startswith(CLASS_HEADS) and not name.startswith(f"{CLASS_HEADS}0.") for name in values):
        return
    for names in report.loaded.values():
        _, first, parameter = names[0].rpartition(f"{CLASS_HEADS}0.")
        repeated = [name for name in missing if first and re.fullmatch(rf"{CLASS_HEADS}\d+\.{parameter}", name)]
        values.update((name, values[names[0]]) for name in repeated)
        names += repeated


def _check_new_parts(new_parts: Sequence[str], fine_tune: bool, destination: _Destination) -> None:
    if new_parts and not fine_tune:
        raise ValueError(f"new_parts={list(new_parts)} is for fine-tuning: pass fine_tune=True as well")
    for part in new_parts:
        if not any(name.startswith(part) for name in destination.tensors):
            modules = {name.rpartition(".")[0] for name in destination.tensors}
            raise ValueError(
                f"new_parts has {part!r}, which is not a prefix of any name in the model{did_you_mean(part, modules)}"
            )


def _require_what_fine_tuning_needs(report: LoadReport, new_parts: tuple[str, ...]) -> None:
    """Raise an error if more tensors keep their initial values than different classes and queries explain."""
    mismatched = [
        mismatch
        for mismatch in report.mismatched
        if not (REPLACEABLE.match(mismatch.name) or mismatch.name.startswith(new_parts))
    ]
    missing = [name for name in report.missing if not (REPLACEABLE.match(name) or name.startswith(new_parts))]
    number = len(mismatched) + len(missing)
    if not number or _is_whole_backbone(report):
        return
    descriptions = [*names_or_parts(missing), *names_or_parts([str(mismatch) for mismatch in mismatched])]
    example = [*missing, *(mismatch.name for mismatch in mismatched)][0].rpartition(".")[0]
    raise CheckpointError(
        f"{number} tensors of the model would keep their initial values, and not only those of classes or queries: "
        f"{', '.join(descriptions)}\n  Of the checkpoint (names of {report.key_map}), {len(report.loaded)} tensors "
        f"match and {len(report.unexpected)} do not"
        + (f": {', '.join(names_or_parts(report.unexpected))}" if report.unexpected else "")
        + "\n  Use the config that the checkpoint was trained with, or a checkpoint of this config. If the model has "
        f"new parts, name them: new_parts=[{example!r}, ...] (train.init_new_parts in a config)"
    )


def _is_whole_backbone(report: LoadReport) -> bool:
    """Whether the checkpoint is one of a backbone alone, and complete."""
    names = [name for names in report.loaded.values() for name in names]
    not_loaded = [*report.missing, *(mismatch.name for mismatch in report.mismatched)]
    return (
        bool(names)
        and not report.unexpected
        and all(name.startswith(BACKBONE) for name in names)
        and not any(name.startswith(BACKBONE) for name in not_loaded)
    )


def _require_this_model(report: LoadReport, state: Mapping[str, Tensor], destination: _Destination) -> None:
    """Raise an error for a checkpoint of which few tensors match."""
    weights = len(report.loaded) + len(report.mismatched) + len(report.unexpected)
    placed = len(report.loaded) + len(report.mismatched)
    whole_model = not report.missing and not report.mismatched
    if not whole_model and (placed == 0 or 2 * placed < weights):
        raise CheckpointError(
            f"this is a checkpoint of a different model: {placed} of its {weights} tensors match (names of "
            f"{report.key_map})\n  in the checkpoint: {few(report.unexpected or list(state))}\n"
            f"  in the model: {few(report.missing or list(destination.tensors))}"
        )


def _require_equal_shapes(report: LoadReport) -> None:
    if not report.mismatched:
        return
    mismatches = "\n".join(f"  {mismatch}" for mismatch in report.mismatched)
    advice = ["Use the config that the checkpoint was trained with"]
    for subject, pattern, key in (
        ("class heads have", r"heads\.class_embed\.", "model.num_classes"),
        ("learned queries are", r"queries\.(embedding|content|boxes)\.", "model.num_queries"),
    ):
        rows = {
            (mismatch.source_shape[0], mismatch.model_shape[0])
            for mismatch in report.mismatched
            if re.match(pattern, mismatch.name)
        }
        if len(rows) == 1:
            (source_rows, model_rows) = rows.pop()
            advice.append(f"its {subject} {source_rows} rows, the model's {model_rows}: see {key}")
    advice.append(
        "To fine-tune with different classes or another number of queries, pass fine_tune=True, as training with "
        "train.init_checkpoint does"
    )
    raise CheckpointError(
        f"{len(report.mismatched)} tensors have another shape in the checkpoint than in the model:\n{mismatches}\n"
        + ". ".join(f"{sentence[0].upper()}{sentence[1:]}" for sentence in advice)
    )
