"""Values of a config that follow from the rest of it."""

import inspect
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .environment import read_environment
from .error import ConfigError
from .targets import locate


def register_resolvers() -> None:
    """Make `${detrex_lite.call:detrex_lite.module.function}` the value that this function gives for the whole config.

    Only functions of detrex_lite are called, and of those the ones that `locate` trusts. A function is called each time
    that the value is read, by any program that reads the config with omegaconf. `oc.env` begins to tell what it reads.
    """
    # Since omegaconf 2.4 it is called so; before, that was the name of another function, without `replace`.
    register: Any = OmegaConf.register_resolver
    if "replace" not in inspect.signature(register).parameters:
        register = OmegaConf.register_new_resolver
    register("detrex_lite.call", _call, replace=True)
    register("oc.env", read_environment, replace=True)


def _call(path: str, *, _root_: DictConfig) -> Any:
    if not path.startswith("detrex_lite."):
        raise ConfigError(f"${{detrex_lite.call:{path}}} is not called: it takes functions of detrex_lite only")
    return locate(path)(_root_)
