"""Shipped configs as modules of Python, for programs that import them without the loader of this package.

In `from detrex_lite.projects.detr.configs.detr_r50_300ep import model`, `LazyConfig.load` runs the named file itself.
This module does so when the import is Python's own, as in a config that detectron2 reads.
"""

import copy
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from types import ModuleType
from typing import Any

from omegaconf import Container

from .loading import config_module, shipped_module


class _ConfigLoader(Loader):
    """Gives modules whose variables are config nodes, a copy at each import: no config sees the changes of another."""

    def exec_module(self, module: ModuleType) -> None:
        assert module.__file__ is not None
        values = config_module(module.__file__)

        def get(name: str) -> Any:
            if name not in values:
                raise AttributeError(f"{module.__file__} defines no {name!r}")
            value = values[name]
            return copy.deepcopy(value) if isinstance(value, Container) else value

        vars(module).update(__getattr__=get, __all__=[name for name in values if not name.startswith("_")])


def find_config(name: str) -> ModuleSpec | None:
    """What Python's import needs to know of a shipped config; None when there is none of this full name."""
    file = shipped_module(name)
    return spec_from_file_location(name, file, loader=_ConfigLoader()) if file else None
