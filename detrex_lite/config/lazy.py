"""Configs that describe calls: `LazyCall` records one, `LazyConfig` loads, changes, saves and prints them."""

import dataclasses
from typing import Any

from omegaconf import DictConfig

from .loading import load, load_rel
from .nodes import TARGET, is_mapping, new_config
from .overrides import apply_overrides
from .printing import to_py
from .saving import save, to_yaml
from .targets import describe, dotted_name
from .trusted import trust


class LazyCall:
    """Record a call for `instantiate` instead of making it.

    `LazyCall(Conv2d)(in_channels=3, out_channels=8, kernel_size=1)` is a config of these keys and `_target_`.

    Args:
        target: a function or class, its dotted path, or a config whose call returns one.

    Raises:
        TypeError: for any other target, or for positional arguments.
    """

    def __init__(self, target: Any) -> None:
        if not (callable(target) or isinstance(target, str) or is_mapping(target)):
            raise TypeError(f"LazyCall takes a callable or its dotted path, not {target!r}")
        # omegaconf would treat these classes as the declared type of a node, so they are recorded by name.
        if isinstance(target, type) and (dataclasses.is_dataclass(target) or issubclass(target, dict)):
            target = dotted_name(target) or target
        if isinstance(target, str) and all(part.isidentifier() for part in target.split(".")):
            trust(target)  # the calling Python code could call the target as well
        self._target = target

    def __call__(self, *args: Any, **kwargs: Any) -> DictConfig:
        if args:
            raise TypeError(
                f"LazyCall({describe(self._target)}) takes keyword arguments only, as a config is changed by "
                f"their names; got {len(args)} positional"
            )
        return new_config({TARGET: self._target, **kwargs})


class LazyConfig:
    """Load, change, save and print configs, with detectron2's names of these functions."""

    load = staticmethod(load)
    load_rel = staticmethod(load_rel)
    apply_overrides = staticmethod(apply_overrides)
    save = staticmethod(save)
    to_yaml = staticmethod(to_yaml)
    to_py = staticmethod(to_py)
