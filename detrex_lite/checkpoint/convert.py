"""Conversion of weights to the parameter names of other projects."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import did_you_mean
from .files import CheckpointError
from .key_maps import DETREX_LITE, KEY_MAPS, KeyMap, split_part, translate
from .load import encoder_heads

_LAYER_HEAD = re.compile(r"^(heads\.(?:class_embed|bbox_embed|extra_embed\.\w+)\.)\d+\.")
_NATIVE = ("heads.", "queries.", "denoising.", "transformer.", "mask_head.", "mask_branch.", "branch.")


def convert_state_dict(state: Mapping[str, Tensor], target: str) -> dict[str, Tensor]:
    """Convert a detector's weights to the names, and to the class rows, of another project's checkpoints.

    Args:
        state: the complete state dict of a detector of this project.
        target: the name of a map in `KEY_MAPS`.

    Returns:
        Tensors by the other project's names; tensors that it stores twice are included under both names. Loading the
        result with `load_checkpoint(source=target)` restores `state`.

    Raises:
        CheckpointError: when there is no such map, or the other project has no such detector: a tensor has no name
            there, or it has one head where this detector has several.
    """
    key_maps = [key_map for key_map in KEY_MAPS if key_map.name == target]
    if not key_maps:
        names = list(dict.fromkeys(key_map.name for key_map in KEY_MAPS))
        raise CheckpointError(f"unknown format {target!r}{did_you_mean(target, names)}")
    if target == DETREX_LITE.name:
        return dict(state)
    faults = []
    for key_map in key_maps:
        try:
            return _convert(state, key_map)
        except CheckpointError as error:
            faults.append(str(error))
    raise CheckpointError(f"{target} has no equivalent detector: {'; or '.join(dict.fromkeys(faults))}")


def _convert(state: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    encoders = {numbered: encoder for encoder, numbered in encoder_heads(state).items()}
    # Heads of the encoder for which the other project has separate names.
    natives = [native for _, native in key_map.rules]
    separate_heads = tuple(
        numbered for numbered, encoder in encoders.items() if any(native.startswith(encoder) for native in natives)
    )
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        if key_map.one_head and not name.startswith(separate_heads) and _repeats_the_first_head(name, value, state):
            continue
        if _is_shared(name, value, state, key_map):
            continue
        names = _foreign_names(name, key_map, encoders)
        conversion = key_map.conversion(name, state.keys())
        if conversion is not None:
            value = conversion.write(name, value)
        parts = [value] if len(names) == 1 else value.chunk(len(names))  # scalars have no parts
        converted.update(zip(names, parts, strict=True))
    for copy in key_map.copies:
        if copy.when is None or copy.when(state):
            duplicates = {translate(name, copy.first, copy.second): value for name, value in converted.items()}
            converted.update({name: value for name, value in duplicates.items() if name is not None})
    if not key_map.matches(converted):
        raise CheckpointError(f"its checkpoints all have tensors such as {key_map.signature[0]}, missing here")
    return converted


def _repeats_the_first_head(name: str, value: Tensor, state: Mapping[str, Tensor]) -> bool:
    first = _LAYER_HEAD.sub(r"\g<1>0.", name)
    if first == name or first not in state:
        return False
    if not torch.equal(value, state[first]):
        raise CheckpointError(f"it has one head for all layers, but {name} differs from {first}")
    return True


def _is_shared(name: str, value: Tensor, state: Mapping[str, Tensor], key_map: KeyMap) -> bool:
    """Whether the other project stores this tensor only under the name of an equal one."""
    for second, first in key_map.shared:
        first_name = translate(name, second, first)
        if first_name is not None and first_name in state:
            if not torch.equal(value, state[first_name]):
                raise CheckpointError(f"{name} and {first_name} are one tensor there, but differ here")
            return True
    return False


def _foreign_names(name: str, key_map: KeyMap, encoders: Mapping[str, str]) -> list[str]:
    """Return the other project's name for a tensor, or the names of its parts if it stores them separately."""
    candidates = [name]
    candidates += [encoder + name.removeprefix(head) for head, encoder in encoders.items() if name.startswith(head)]
    for native in reversed(candidates):  # rules for the encoder's head come before rules for numbered heads
        foreign = key_map.rename_back(native)
        if foreign == native and key_map.exhaustive:
            continue
        if key_map.rename(foreign) == native and not foreign.startswith(_native_only(key_map)):
            return [foreign]
    for total in sorted({split_part(native)[2] for _, native in key_map.rules} - {1}):
        parts = [f"{name}[{index}/{total}]" for index in range(total)]
        foreign_parts = [key_map.rename_back(part) for part in parts]
        if [key_map.rename(foreign) for foreign in foreign_parts] == parts and foreign_parts != parts:
            return foreign_parts
    raise CheckpointError(f"it has no name for {name}")


def _native_only(key_map: KeyMap) -> tuple[str, ...]:
    """Return the prefixes of this project's names that no name of the other project has."""
    return tuple(native for native in _NATIVE if not any(foreign.startswith(native) for foreign, _ in key_map.rules))
