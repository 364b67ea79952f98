"""Reading config trees of omegaconf's containers or of plain Python containers."""

from collections.abc import Iterator
from typing import Any

from omegaconf import Container, DictConfig, Node, OmegaConf, SCMode
from omegaconf.errors import OmegaConfBaseException

from .environment import environment_reads
from .error import ConfigError

FLAGS = {"allow_objects": True}  # config values may be classes, functions and built objects
TARGET, POSITIONAL, PARTIAL, RECURSIVE = "_target_", "_args_", "_partial_", "_recursive_"
SPECIAL_KEYS = frozenset((TARGET, POSITIONAL, PARTIAL, RECURSIVE))


def new_config(values: dict[str, Any]) -> DictConfig:
    """Create a config node of plain values; tuples become lists.

    omegaconf 2.4 would convert a tuple to a node that cannot be changed and accepts only sequences.
    """
    return DictConfig(_without_tuples(values), flags=FLAGS)


def _without_tuples(value: Any) -> Any:
    if type(value) is dict:
        return {key: _without_tuples(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_without_tuples(item) for item in value]
    return value


def is_mapping(value: Any) -> bool:
    return isinstance(value, (dict, DictConfig))


def is_sequence(value: Any) -> bool:
    # Not only lists: in omegaconf 2.4 a tuple that is assigned to a config later becomes a different container.
    return isinstance(value, (list, Container)) and not is_mapping(value)


def is_call(value: Any) -> bool:
    return is_mapping(value) and TARGET in value


def join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def path_of(node: Any) -> str:
    """Return the dotted path from the root of the config to a node; `""` for the root and for plain containers."""
    keys: list[str] = []
    while isinstance(node, Node) and node._get_parent() is not None:
        keys.append(str(node._key()))
        node = node._get_parent()
    return ".".join(reversed(keys))


def dotted_paths(node: Any, path: str = "") -> Iterator[str]:
    """Iterate over the dotted paths of all keys of a config, without following interpolations."""
    keys: Any = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        child_path = join(path, key)
        yield child_path
        if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        if isinstance(node[key], Container):
            yield from dotted_paths(node[key], child_path)


def first_line(error: OmegaConfBaseException) -> str:
    """Return omegaconf's message without appended internals, and without its text around a `ConfigError`."""
    return str(error).partition("\n")[0].removeprefix("ConfigError raised while resolving interpolation: ")


def to_plain(cfg: Any, *, resolve: bool) -> Any:
    """Convert the config to plain dicts and lists; interpolations are text unless resolved; dataclasses stay nodes.

    Interpolations of environment variables are never resolved, because they may be passwords and the result is written
    to files.

    Raises:
        ConfigError: an interpolation cannot be resolved.
    """
    node = cfg if isinstance(cfg, Container) else OmegaConf.create(cfg, flags=FLAGS)
    written = _as_written(node)
    if not resolve:
        return written
    try:
        return _resolved(node, written)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from error


def fields_of(node: DictConfig, *, resolve: bool) -> dict[str, Any]:
    """Return the fields of a dataclass or attrs instance, which `to_plain` leaves as a node, with their own values."""
    fields = {}
    for key in node:
        child: Any = node._get_node(key)
        is_reference = child._is_interpolation() or child._is_missing() or child._is_none()
        written = child._value() if is_reference or not isinstance(child, Container) else _as_written(child)
        fields[str(key)] = _resolved_item(node, key, written) if resolve else written
    return fields


def _as_written(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False, structured_config_mode=SCMode.DICT_CONFIG)


def _resolved(node: Any, plain: Any) -> Any:
    """Resolve the interpolations in `plain`, the plain form of a node, except those of environment variables."""
    if isinstance(plain, dict):
        return {key: _resolved_item(node, key, item) for key, item in plain.items()}
    if isinstance(plain, list):
        return [_resolved_item(node, index, item) for index, item in enumerate(plain)]
    return OmegaConf.to_container(node, resolve=True, structured_config_mode=SCMode.DICT_CONFIG)


def _resolved_item(node: Any, key: Any, plain: Any) -> Any:
    if OmegaConf.is_missing(node, key):
        return plain
    if not OmegaConf.is_interpolation(node, key):
        child = node._get_node(key)
        return _resolved(child, plain) if isinstance(child, Container) else plain
    with environment_reads() as names:
        value = node[key]
        if isinstance(value, Container):
            OmegaConf.to_container(value, resolve=True)  # also reads the fields of instances
            value = OmegaConf.to_container(value, resolve=True, structured_config_mode=SCMode.DICT_CONFIG)
    return plain if names else value
