"""Copies of built blocks with initial values of their own."""

import copy
from collections.abc import Iterable

from torch import nn


def copies(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """A copy of each module; where a module comes repeatedly, later copies draw their own initial values."""
    seen: set[int] = set()
    made = []
    for module in modules:
        made.append(copy.deepcopy(module))
        if id(module) in seen:
            draw_again(made[-1])
        seen.add(id(module))
    return made


def draw_again(module: nn.Module) -> None:
    """Draw new initial values by `reset_parameters`; a module without that method keeps its values."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()


def draw_children_again(module: nn.Module) -> None:
    """Draw the initial values of all modules inside that have `reset_parameters`: that of a block made of blocks."""
    for child in module.children():
        if callable(getattr(child, "reset_parameters", None)):
            draw_again(child)
        else:
            draw_children_again(child)
