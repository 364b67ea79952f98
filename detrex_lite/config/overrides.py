"""Changes of a config by strings from the command line: `train.max_iter=10`."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, TypeVar

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import closest, did_you_mean
from ..foreign_names import known_here
from .error import ConfigError
from .loading import get_config
from .nodes import TARGET, dotted_paths, first_line, is_call, join
from .targets import accepted_names, default_of, describe, locate, takes_only
from .values import parse_value

Config = TypeVar("Config", DictConfig, ListConfig)


def apply_overrides(cfg: Config, overrides: Sequence[str]) -> Config:
    """Change a config in place, one override after the other, and return it.

    - `a.b=1` sets an existing key, or one that the `_target_` of `a` has as a parameter. The indices of lists are keys
      as well: `a.0=1`. A dict changes the keys that it contains; `{}` and a dict with `_target_` replace the node. If
      the value or the default of the argument is a call, a class or a function, a dotted path
      (`a.activation=torch.nn.GELU`) selects another one. For the syntax of values see `parse_value`.
    - `+a.b=1` sets an existing or a new key.
    - `~a.b` deletes a key.

    Raises:
        ConfigError: one fault for each wrong override; the other overrides have been applied.
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
    match = re.fullmatch(r"(~|\+{0,2})([^=]+)(=.*)?", text, flags=re.DOTALL)
    if match is None or (match[1] == "~") != (match[3] is None):
        raise ConfigError("expected key=value, +key=value to add a key, or ~key to delete one")
    prefix, key, value = match.groups()
    keys = re.sub(r"\[([-\w]+)\]", r".\1", key.strip()).split(".")
    if prefix == "~":
        parent = _parent(cfg, keys, add=False)
        del parent[_existing_key(cfg, keys, parent, len(keys) - 1)]
    else:
        _set(cfg, keys, parse_value(value[1:]), add=bool(prefix))


def _set(cfg: Any, keys: list[str], value: Any, add: bool) -> None:
    parent, name = _parent(cfg, keys, add), keys[-1]
    may_add = isinstance(parent, DictConfig) and (add or name in accepted_names(_target_of(parent)))
    if may_add and _find_key(parent, name) is None:
        default = default_of(_target_of(parent), name)
        parent[name] = locate(value) if callable(default) and _names_something(value) else value
        return
    key = _existing_key(cfg, keys, parent, len(keys) - 1)
    if _names_something(value) and key != TARGET and not OmegaConf.is_interpolation(parent, key):
        if is_call(_present(parent, key)):
            locate(value)
            value = {TARGET: value}
        elif callable(_present(parent, key)):
            value = locate(value)
    if not _merges(parent, key, value):
        parent[key] = value
        return
    faults = []
    for inner, item in value.items():
        try:
            _set(cfg, [*keys, str(inner)], item, add)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)


def _present(parent: Any, key: Any) -> Any:
    return None if OmegaConf.is_missing(parent, key) else parent[key]


def _names_something(value: Any) -> bool:
    """Whether a value is the dotted path of an object in an existing package, such as `torch.nn.GELU`."""
    if not isinstance(value, str) or "." not in value or not all(part.isidentifier() for part in value.split(".")):
        return False
    return find_spec(value.partition(".")[0]) is not None


def _merges(parent: Any, key: Any, value: Any) -> bool:
    """Whether a value changes parts of the present node instead of replacing it."""
    if not isinstance(value, dict) or not value or TARGET in value:
        return False
    if OmegaConf.is_interpolation(parent, key) or OmegaConf.is_missing(parent, key):
        return False
    return isinstance(parent[key], DictConfig)


def _parent(cfg: Any, keys: list[str], add: bool) -> Any:
    """Return the container of the last key; with `add`, missing dicts are created on the way."""
    node = cfg
    for depth, name in enumerate(keys[:-1]):
        if add and isinstance(node, DictConfig) and _find_key(node, name) is None:
            node[name] = {}
        key = _existing_key(cfg, keys, node, depth)
        if add and node[key] is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, Container):
            raise ConfigError(f"{'.'.join(keys[: depth + 1])} is {node!r}, which has no keys")
    return node


def _find_key(node: Any, name: str) -> Any:
    """Return the key or index that `name` spells, or None if the container does not have it."""
    keys: Any = node if isinstance(node, DictConfig) else range(-len(node), len(node))
    return next((key for key in keys if str(key) == name), None)


def _existing_key(cfg: Any, keys: list[str], node: Any, depth: int) -> Any:
    """Return the next key of the override in `node`, the container at `keys[:depth]`."""
    key = _find_key(node, keys[depth])
    if key is not None:
        return key
    path, parent = ".".join(keys), ".".join(keys[:depth])
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{parent} has {len(node)} items, none at {keys[depth]!r}")
    target = _target_of(node)
    known_names = list(get_config("common/train.py").train) if parent == "train" else takes_only(target)
    names = [*map(str, node), *known_names, *accepted_names(target)]
    other_paths = [name for name in dotted_paths(cfg) if not f"{path}.".startswith(f"{name}.")]
    is_last = depth == len(keys) - 1
    close = closest(keys[depth], names) if is_last else None
    foreign = _foreign(cfg, keys[depth], within=f"{parent}." if is_call(node) else "") if is_last else ""
    if foreign and (close is None or not is_call(node)):
        raise ConfigError(f"there is no {path!r}{foreign}")
    if close is not None:
        hint = f"; did you mean {join(parent, close)!r}?"
    elif known_names and parent != "train":
        hint = f"; {describe(target)} takes {', '.join(sorted(known_names))}"
    elif is_last:
        # Only last names are compared, because paths with a long common prefix are similar anyway.
        same_section = [candidate for candidate in other_paths if parent in candidate.split(".")[:-1]]
        elsewhere = _of_name(keys[depth], same_section) or _of_name(keys[depth], other_paths)
        siblings = [join(parent, name) for name in names] if parent != "train" else []
        hint = f"; did you mean {elsewhere!r}?" if elsewhere else did_you_mean(path, siblings)
    else:
        hint = did_you_mean(path, other_paths)
    adding = "" if known_names and keys[depth] not in known_names else f" (+{path}=... would add it)"
    raise ConfigError(f"there is no {path!r}{hint}{adding}")


def _foreign(cfg: Any, name: str, *, within: str) -> str:
    """Return a hint at the key here for another program's name; empty when there is no such key.

    Args:
        within: prefix of the key.
    """
    for key in known_here(name):
        if key.startswith("--") and not within:
            return f"; that is the flag {key} of detrex-lite train"
        if key.startswith(within) and _exists(cfg, key):
            return f"; did you mean {key!r}?"
    return ""


def _exists(cfg: Any, path: str) -> bool:
    """Whether a dotted path can be set: its last key is there, a default of the engine, or an argument of its call."""
    *parents, name = path.split(".")
    if parents == ["train"] and name in get_config("common/train.py").train:
        return True
    node = cfg
    for key in parents:
        if not isinstance(node, DictConfig) or key not in node or OmegaConf.is_missing(node, key):
            return False
        node = node[key]
    return isinstance(node, DictConfig) and (name in node or name in accepted_names(_target_of(node)))


def _of_name(name: str, paths: Sequence[str]) -> str | None:
    """Return the first path whose last key was probably meant."""
    last_names = [path.rpartition(".")[2] for path in paths]
    # A name that contains the given one as a word is preferred to one with a similar spelling: `epochs`, `max_epochs`.
    best = closest(name, [last for last in last_names if name in last.split("_")] or last_names)
    return next((path for path in paths if path.rpartition(".")[2] == best), None)


def _target_of(node: Any) -> Any:
    """Return the target of a node; None for nodes that are not calls, and for names that `validate` will report."""
    if not is_call(node):
        return None
    target = node[TARGET]
    try:
        return locate(target) if isinstance(target, str) else target
    except ConfigError:
        return None
