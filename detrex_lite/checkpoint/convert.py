"""Weights under another project's names."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import did_you_mean
from .files import CheckpointError
from .key_maps import DETREX_LITE, KEY_MAPS, KeyMap, split_part, translate
from .load import encoder_heads

_LAYER_HEAD = re.compile(r"^(heads\.(?:class_embed|bbox_embed|extra_embed\.\w+)\.)\d+\.")
_OURS = ("heads.", "queries.", "denoising.", "transformer.", "mask_head.", "mask_branch.", "branch.")


def convert_state_dict(state: Mapping[str, Tensor], target: str) -> dict[str, Tensor]:
    """A detector's weights under the names, and with the class rows, that another project's checkpoints have.

    Args:
        state: the whole state dict of a detector of this project.
        target: the name of a map in `KEY_MAPS`.

    Returns:
        Names there -> tensors, the ones that it stores twice under both names. Loading them with
        `load_checkpoint(source=target)` gives `state` again.

    Raises:
        CheckpointError: when there is no such map, or its project has no such detector: no name for a tensor, or one
            head for what are several here.
    """
    key_maps = [key_map for key_map in KEY_MAPS if key_map.name == target]
    if not key_maps:
        names = list(dict.fromkeys(key_map.name for key_map in KEY_MAPS))
        raise CheckpointError(f"there is no format {target!r}{did_you_mean(target, names)}")
    if target == DETREX_LITE.name:
        return dict(state)
    faults = []
    for key_map in key_maps:
        try:
            return _convert(state, key_map)
        except CheckpointError as error:
            faults.append(str(error))
    raise CheckpointError(f"{target} has no such detector: {'; or '.join(dict.fromkeys(faults))}")


def _convert(state: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    encoders = {numbered: encoder for encoder, numbered in encoder_heads(state).items()}
    # Heads of the encoder that the other project has by a name of their own.
    named = [ours for _, ours in key_map.rules]
    apart = tuple(numbered for numbered, encoder in encoders.items() if any(one.startswith(encoder) for one in named))
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        if key_map.one_head and not name.startswith(apart) and _repeats_the_first_head(name, value, state):
            continue
        if _is_shared(name, value, state, key_map):
            continue
        names = _names_there(name, key_map, encoders)
        conversion = key_map.conversion(name, state.keys())
        if conversion is not None:
            value = conversion.write(name, value)
        parts = [value] if len(names) == 1 else value.chunk(len(names))  # scalars have no parts
        converted.update(zip(names, parts, strict=True))
    for copy in key_map.copies:
        if copy.when is None or copy.when(state):
            repeated = {translate(name, copy.first, copy.second): value for name, value in converted.items()}
            converted.update({name: value for name, value in repeated.items() if name is not None})
    if not key_map.matches(converted):
        raise CheckpointError(f"no tensor is called as in every checkpoint of it, such as {key_map.signature[0]}")
    return converted


def _repeats_the_first_head(name: str, value: Tensor, state: Mapping[str, Tensor]) -> bool:
    first = _LAYER_HEAD.sub(r"\g<1>0.", name)
    if first == name or first not in state:
        return False
    if not torch.equal(value, state[first]):
        raise CheckpointError(f"it has one head for all layers, and {name} differs from {first}")
    return True


def _is_shared(name: str, value: Tensor, state: Mapping[str, Tensor], key_map: KeyMap) -> bool:
    """Whether the other project has this tensor under the name of another one alone."""
    for second, first in key_map.shared:
        other = translate(name, second, first)
        if other is not None and other in state:
            if not torch.equal(value, state[other]):
                raise CheckpointError(f"{name} and {other} are one there, and differ here")
            return True
    return False


def _names_there(name: str, key_map: KeyMap, encoders: Mapping[str, str]) -> list[str]:
    """The other project's name for a tensor, or those of its parts, if it stores them as several."""
    called = [name]
    called += [encoder + name.removeprefix(head) for head, encoder in encoders.items() if name.startswith(head)]
    for ours in reversed(called):  # a rule for the encoder's head before one for a head by its number
        there = key_map.rename_back(ours)
        if there == ours and key_map.exhaustive:
            continue
        if key_map.rename(there) == ours and not there.startswith(_not_theirs(key_map)):
            return [there]
    for total in sorted({split_part(ours)[2] for _, ours in key_map.rules} - {1}):
        parts = [f"{name}[{index}/{total}]" for index in range(total)]
        there_parts = [key_map.rename_back(part) for part in parts]
        if [key_map.rename(there) for there in there_parts] == parts and there_parts != parts:
            return there_parts
    raise CheckpointError(f"it has no name for {name}")


def _not_theirs(key_map: KeyMap) -> tuple[str, ...]:
    """Beginnings of this project's names that no name of the other project has."""
    return tuple(ours for ours in _OURS if not any(theirs.startswith(ours) for theirs, _ in key_map.rules))
