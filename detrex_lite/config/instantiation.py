"""Building the objects that a config describes."""

import copy
from functools import partial
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf

from .error import ConfigError, ConstructionError
from .nodes import (
    PARTIAL,
    POSITIONAL,
    RECURSIVE,
    SPECIAL_KEYS,
    TARGET,
    is_call,
    is_mapping,
    is_sequence,
    join,
    path_of,
)
from .targets import describe, locate
from .validation import check

# Exceptions that the values of a config can cause; any other exception of a constructor is a mistake in its code.
_USER_ERRORS = (ValueError, TypeError, OSError, ImportError)


def instantiate(cfg: Any, /, **overrides: Any) -> Any:
    """Build what a config describes: call every `_target_` with its arguments, innermost first.

    A node is a call when it has the key `_target_`: a callable, its dotted path, or a call that returns one. Its other
    keys are keyword arguments, except for `_args_` (a list of positional arguments), `_partial_` (true: return a
    `functools.partial` instead of calling) and `_recursive_` (false: pass arguments as config nodes, without building
    them). Other config dicts and lists become plain dicts and lists of built values, so that built objects do not hold
    references to the config. All other values are passed unchanged. The config is not modified.

    Unlike this function, detectron2's `instantiate` does not support `_args_` and `_partial_`, and passes omegaconf's
    dicts and lists.

    Args:
        cfg: a config node, or a plain dict or list. Any other value is returned unchanged.
        **overrides: arguments of the outermost call that replace or complete those of the config.

    Raises:
        ConfigError: the config is invalid; then nothing was called, and all faults are named. Or, as a
            `ConstructionError`, a constructor rejected its arguments: the message names the node and the target.
        RuntimeError: a constructor failed with an error that is not about its arguments.
    """
    if overrides and not is_call(cfg):
        raise ConfigError(f"only a config with _target_ takes arguments, here {', '.join(overrides)}")
    check(cfg, supplied=overrides)
    return _build(cfg, path_of(cfg), overrides)


def _build(node: Any, path: str, overrides: dict[str, Any]) -> Any:
    if is_call(node):
        return _call(node, path, overrides)
    if isinstance(node, DictConfig) and OmegaConf.get_type(node) is not dict:
        return OmegaConf.to_object(node)  # a dataclass instance that omegaconf converted to a node
    if is_mapping(node):
        return _same_or(node, {key: _build(node[key], join(path, key), {}) for key in node})
    if is_sequence(node):
        return _same_or(node, [_build(item, join(path, index), {}) for index, item in enumerate(node)])
    return node


def _same_or(node: Any, built: Any) -> Any:
    """Return `built`, or the node itself if it is a plain container without anything to build."""
    if isinstance(node, Container):
        return built
    keys = node if is_mapping(node) else range(len(node))
    return node if all(node[key] is built[key] for key in keys) else built


def _call(node: Any, path: str, overrides: dict[str, Any]) -> Any:
    recursive = node.get(RECURSIVE, True)

    def value_of(key: Any) -> Any:
        value = node[key]
        if recursive:
            return _build(value, join(path, key), {})
        # The copy of a node still resolves its interpolations within the whole config.
        return copy.deepcopy(value) if isinstance(value, Container) else value

    target = _build(node[TARGET], join(path, TARGET), {})
    target = locate(target) if isinstance(target, str) else target
    positional = value_of(POSITIONAL) if POSITIONAL in node else ()
    names = [key for key in node if key not in SPECIAL_KEYS and key not in overrides]
    keywords = {**{name: value_of(name) for name in names}, **overrides}
    if node.get(PARTIAL, False):
        return partial(target, *positional, **keywords)
    try:
        return target(*positional, **keywords)
    except ConfigError:
        raise
    except Exception as error:
        kind = ConstructionError if isinstance(error, _USER_ERRORS) else RuntimeError
        where = f"{path}: " if path else ""
        raise kind(f"{where}{describe(target)} failed: {type(error).__name__}: {error}") from error
