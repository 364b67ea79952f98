"""Values of a config that are computed from other parts of it."""

import inspect
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .environment import read_environment
from .error import ConfigError
from .targets import locate


def register_resolvers() -> None:
    """Define `${detrex_lite.call:detrex_lite.module.function}` as the function's value for the whole config.

    Only functions of detrex_lite that `locate` trusts are called. A function is called whenever the value is read, by
    any program that reads the config with omegaconf. `oc.env` additionally records what it reads.
    """
    # This is the name since omegaconf 2.4; before, it was the name of a different function, without `replace`.
    register: Any = OmegaConf.register_resolver
    if "replace" not in inspect.signature(register).parameters:
        register = OmegaConf.register_new_resolver
    register("detrex_lite.call", _call, replace=True)
    register("oc.env", read_environment, replace=True)


def _call(path: str, *, _root_: DictConfig) -> Any:
    if not path.startswith("detrex_lite."):
        raise ConfigError(f"${{detrex_lite.call:{path}}} is not called: only functions of detrex_lite are allowed")
    return locate(path)(_root_)
