"""Writing a config as YAML that can be loaded again."""

import numbers
import os
import warnings
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .nodes import PARTIAL, POSITIONAL, TARGET, fields_of, join, to_plain
from .targets import dotted_name, is_at


def to_yaml(cfg: Any, *, resolve: bool = False) -> str:
    """Convert the config to YAML text.

    Classes and functions are written as dotted paths. Values without one (lambdas, built objects) become `???`, with a
    comment that names them: the text can be loaded, but using such a value is an error.

    Args:
        cfg: a config, or a plain dict or list.
        resolve: whether interpolations are replaced by their values.

    Raises:
        ConfigError: an interpolation cannot be resolved.
    """
    return _write(cfg, resolve)[0]


def save(cfg: Any, path: str | os.PathLike, *, resolve: bool = False) -> None:
    """Write `to_yaml` to a file that `load` reads; a warning names the values that it cannot store."""
    text, lost = _write(cfg, resolve)
    Path(os.path.expanduser(path)).write_text(text, encoding="utf-8")
    if lost:
        names = ", ".join(f"{key} ({description})" for key, description in lost.items())
        warnings.warn(f"{path} cannot store these values of the config, they are ??? in it: {names}")


def unsaved(cfg: Any) -> dict[str, str]:
    """Describe the values that `save` cannot store, by dotted path.

    Raises:
        ConfigError: an interpolation cannot be resolved.
    """
    return _write(cfg, True)[1]


def _write(cfg: Any, resolve: bool) -> tuple[str, dict[str, str]]:
    writer = _Writer(resolve=resolve)
    plain = writer.convert(to_plain(cfg, resolve=resolve), "")
    text = OmegaConf.to_yaml(OmegaConf.create(plain))
    if writer.lost:
        comments = [f"#   {path}: {description}" for path, description in writer.lost.items()]
        text = "\n".join(["# YAML cannot store these values, they are ??? below:", *comments, text])
    return text, writer.lost


class _Writer:
    """Converts the values of a config to values that YAML can store.

    Objects with a name become calls that return them; objects without a name become `???`.

    Args:
        resolve: whether interpolations in instances of dataclasses are replaced by their values.

    Attributes:
        lost: descriptions of the values that became `???`, by dotted path.
    """

    def __init__(self, *, resolve: bool) -> None:
        self.resolve = resolve
        self.lost: dict[str, str] = {}

    def convert(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: self._convert_item(key, item, join(path, key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.convert(item, join(path, index)) for index, item in enumerate(value)]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Enum):
            return self._reference(f"{dotted_name(type(value))}.{value.name}", value, path)
        if isinstance(value, str):
            return str(value)
        if isinstance(value, numbers.Integral):  # YAML does not support NumPy's scalars
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value)
        return self._convert_object(value, path)

    def _convert_item(self, key: Any, value: Any, path: str) -> Any:
        name = dotted_name(value) if key == TARGET else None
        return name or self.convert(value, path)

    def _convert_object(self, value: Any, path: str) -> Any:
        call: dict[Any, Any]
        if isinstance(value, DictConfig):  # a dataclass instance that omegaconf converted to a node
            call = {TARGET: OmegaConf.get_type(value), **fields_of(value, resolve=self.resolve)}
        elif isinstance(value, PurePath):
            call = {TARGET: Path, POSITIONAL: [str(value)]}
        elif isinstance(value, partial):
            call = {TARGET: value.func, PARTIAL: True, POSITIONAL: list(value.args), **value.keywords}
        else:
            # dtypes and the like have no `__qualname__`, but their text is a dotted path: torch.float32
            return self._reference(dotted_name(value) or str(value), value, path)
        return self.convert(call, path)

    def _reference(self, name: str, value: Any, path: str) -> Any:
        if is_at(name, value):
            return {TARGET: "detrex_lite.config.locate", "path": name}
        code = getattr(value, "__code__", None)
        where = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
        self.lost[path] = f"{getattr(value, '__qualname__', type(value).__qualname__)}{where}"
        return "???"
