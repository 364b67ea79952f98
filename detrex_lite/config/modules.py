"""The configs of the package as Python modules, for programs that import them without this package's loader.

For `from detrex_lite.projects.detr.configs.detr_r50_300ep import model` in a config file, `LazyConfig.load` runs the
imported file itself. This module does so for Python's import, for example in a config that detectron2 reads.
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
    """Creates modules whose variables are config nodes, with a copy for each import, so that changes are not shared."""

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
    """Return the import spec of a config of the package; None if there is none with this full name."""
    file = shipped_module(name)
    return spec_from_file_location(name, file, loader=_ConfigLoader()) if file else None
