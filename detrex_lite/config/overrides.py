"""Changing a config by strings from the command line: `train.max_iter=10`."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .error import ConfigError, nearest
from .nodes import TARGET, dotted_paths, first_line, is_call, join, to_plain
from .targets import accepted_names, locate
from .values import parse_value

Config = TypeVar("Config", DictConfig, ListConfig)


def apply_overrides(cfg: Config, overrides: Sequence[str]) -> Config:
    """Change a config in place, one override after the other, and return it.

    - `a.b=1` sets a key that is there, or one that the `_target_` of `a` has among its parameters. The
      indices of lists are keys too: `a.0=1`. A dict changes the keys that it names; `{}` and a dict with
      `_target_` replace the node. How values are written: `parse_value`.
    - `+a.b=1` sets a key whether or not it is there.
    - `~a.b` deletes a key.

    Raises:
        ConfigError: one fault for each override that is wrong; the others have been applied.
    """
    faults = []
    for text in overrides:
        try:
            _apply(cfg, text)
        except ConfigError as error:
            faults += [f"override {text!r}: {fault}" for fault in error.faults]
        except OmegaConfBaseException as error:
            faults.append(f"override {text!r}: {first_line(error)}")
    if faults:
        raise ConfigError(faults)
    return cfg


def _apply(cfg: Any, text: str) -> None:
    match = re.fullmatch(r"(\+{0,2}|~)([^=]+)(=.*)?", text, flags=re.DOTALL)
    if match is None or (match[1] == "~") != (match[3] is None):
        raise ConfigError("expected key=value, +key=value to add a key, or ~key to delete one")
    prefix, key, value = match.groups()
    keys = re.sub(r"\[(\w+)\]", r".\1", key.strip()).split(".")
    if prefix == "~":
        parent = _descend(cfg, keys[:-1], add=False)
        del parent[_existing_key(cfg, parent, keys)]
    else:
        _set(cfg, keys, parse_value(value[1:]), add=bool(prefix))


def _set(cfg: Any, keys: list[str], value: Any, add: bool) -> None:
    parent = _descend(cfg, keys[:-1], add)
    key = _find_key(parent, keys[-1])
    if key is None and isinstance(parent, DictConfig) and (add or keys[-1] in _constructor_arguments(parent)):
        parent[keys[-1]] = value
        return
    key = _existing_key(cfg, parent, keys)
    if _merges(parent, key, value):
        faults = []
        for name, item in value.items():
            try:
                _set(cfg, [*keys, str(name)], item, add)
            except ConfigError as error:
                faults += error.faults
        if faults:
            raise ConfigError(faults)
    else:
        parent[key] = value


def _merges(parent: Any, key: Any, value: Any) -> bool:
    """Whether a value is a change of parts of the present node rather than a new node."""
    if not isinstance(value, dict) or not value or TARGET in value:
        return False
    if OmegaConf.is_interpolation(parent, key) or OmegaConf.is_missing(parent, key):
        return False
    return isinstance(parent[key], DictConfig)


def _descend(cfg: Any, keys: list[str], add: bool) -> Any:
    """The container at a path; with `add`, dicts are put where there is nothing."""
    node = cfg
    for depth, name in enumerate(keys, start=1):
        if add and isinstance(node, DictConfig) and _find_key(node, name) is None:
            node[name] = {}
        key = _existing_key(cfg, node, keys[:depth])
        if add and node[key] is None:
            node[key] = {}
        child = node[key]
        if not isinstance(child, Container):
            raise ConfigError(f"{'.'.join(keys[:depth])} is {child!r}, which has no keys")
        if not isinstance(child, (DictConfig, ListConfig)):  # omegaconf 2.4 does not change tuples
            node[key] = list(to_plain(child, resolve=False))
            child = node[key]
        node = child
    return node


def _find_key(node: Any, name: str) -> Any:
    """The key or index that `name` spells, or None when the container has none such."""
    keys = node.keys() if isinstance(node, DictConfig) else range(-len(node), len(node))
    return next((key for key in keys if str(key) == name), None)


def _existing_key(cfg: Any, node: Any, keys: list[str]) -> Any:
    key = _find_key(node, keys[-1])
    if key is not None:
        return key
    path, parent = ".".join(keys), ".".join(keys[:-1])
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{parent} has {len(node)} items, none at {keys[-1]!r}")
    siblings = [join(parent, name) for name in (*node.keys(), *_constructor_arguments(node))]
    hint = nearest(path, [*dotted_paths(cfg), *siblings]) or nearest(path, siblings)
    raise ConfigError(f"there is no {path!r} (write +{path}=... to add it){hint}")


def _constructor_arguments(node: Any) -> list[str]:
    """The names that the target of a call accepts: keys that may be set though they are not there."""
    if not is_call(node):
        return []
    target = node[TARGET]
    try:
        target = locate(target) if isinstance(target, str) else target
    except ConfigError:  # `validate` reports it
        return []
    return accepted_names(target)
