"""Values of a config that follow from the rest of it."""

import inspect
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .targets import locate


def register_resolver() -> None:
    """Make `${detrex_lite.call:package.function}` the value that this function gives for the whole config.

    The function is called each time that the value is read, by any program that reads the config with omegaconf.
    """
    # Since omegaconf 2.4 it is called so; before, that was the name of another function, without `replace`.
    register: Any = OmegaConf.register_resolver
    if "replace" not in inspect.signature(register).parameters:
        register = OmegaConf.register_new_resolver
    register("detrex_lite.call", _call, replace=True)


def _call(path: str, *, _root_: DictConfig) -> Any:
    return locate(path)(_root_)
