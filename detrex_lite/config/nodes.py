"""Reading config trees, whether of omegaconf's containers or of plain Python's."""

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
    """A config node of plain values; tuples become lists.

    omegaconf 2.4 would make of a tuple a node that cannot be changed and takes sequences only.
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
    # Not only lists: a tuple that is put into a config later is a container of its own kind in omegaconf 2.4.
    return isinstance(value, (list, Container)) and not is_mapping(value)


def is_call(value: Any) -> bool:
    return is_mapping(value) and TARGET in value


def join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def path_of(node: Any) -> str:
    """The dotted path from the root of the config to a node; `""` for the root and for plain containers."""
    keys: list[str] = []
    while isinstance(node, Node) and node._get_parent() is not None:
        keys.append(str(node._key()))
        node = node._get_parent()
    return ".".join(reversed(keys))


def dotted_paths(node: Any, path: str = "") -> Iterator[str]:
    """Every key of a config with all below it, without following interpolations."""
    keys: Any = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        child_path = join(path, key)
        yield child_path
        if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        if isinstance(node[key], Container):
            yield from dotted_paths(node[key], child_path)


def first_line(error: OmegaConfBaseException) -> str:
    """omegaconf's message without the internals that it appends, and without its words around a `ConfigError`."""
    return str(error).partition("\n")[0].removeprefix("ConfigError raised while resolving interpolation: ")


def to_plain(cfg: Any, *, resolve: bool) -> Any:
    """The config as plain dicts and lists, interpolations as text unless resolved; dataclasses stay nodes.

    What follows from environment variables stays as it is written, resolved or not: it may be a password, and what is
    made here is written to files.

    Raises:
        ConfigError: an interpolation does not resolve.
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
    """The fields of a dataclass or attrs instance, which `to_plain` leaves a node; their values as it gives them."""
    fields = {}
    for key in node:
        child: Any = node._get_node(key)
        is_reference = child._is_interpolation() or child._is_missing() or child._is_none()
        written = child._value() if is_reference or not isinstance(child, Container) else _as_written(child)
        fields[str(key)] = _resolved_item(node, key, written) if resolve else written
    return fields


def _as_written(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False, structured_config_mode=SCMode.DICT_CONFIG)


def _resolved(node: Any, written: Any) -> Any:
    """`written`, the plain form of a node, with the values of the interpolations that read no environment variables."""
    if isinstance(written, dict):
        return {key: _resolved_item(node, key, item) for key, item in written.items()}
    if isinstance(written, list):
        return [_resolved_item(node, index, item) for index, item in enumerate(written)]
    return OmegaConf.to_container(node, resolve=True, structured_config_mode=SCMode.DICT_CONFIG)


def _resolved_item(node: Any, key: Any, written: Any) -> Any:
    if OmegaConf.is_missing(node, key):
        return written
    if not OmegaConf.is_interpolation(node, key):
        child = node._get_node(key)
        return _resolved(child, written) if isinstance(child, Container) else written
    with environment_reads() as names:
        value = node[key]
        if isinstance(value, Container):
            OmegaConf.to_container(value, resolve=True)  # reads the fields of instances too
            value = OmegaConf.to_container(value, resolve=True, structured_config_mode=SCMode.DICT_CONFIG)
    return written if names else value
