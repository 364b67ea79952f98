"""Copies of built blocks, each with newly drawn initial values."""

import copy
from collections.abc import Iterable

from torch import nn


def copies(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Copy each module; where a module is repeated, copies after the first draw new initial values."""
    seen_ids: set[int] = set()
    result = []
    for module in modules:
        result.append(copy.deepcopy(module))
        if id(module) in seen_ids:
            draw_again(result[-1])
        seen_ids.add(id(module))
    return result


def draw_again(module: nn.Module) -> None:
    """Draw new initial values by `reset_parameters`; a module without that method keeps its values."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()


def draw_children_again(module: nn.Module) -> None:
    """Draw new initial values for all child modules; the `reset_parameters` of a block that consists of blocks."""
    for child in module.children():
        if callable(getattr(child, "reset_parameters", None)):
            draw_again(child)
        else:
            draw_children_again(child)
