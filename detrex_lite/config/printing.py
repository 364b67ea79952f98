"""Formatting a config as Python for reading."""

from collections.abc import Iterator
from typing import Any

from .nodes import TARGET, to_plain
from .targets import describe

_WIDTH = 88


def to_py(cfg: Any, prefix: str = "cfg.", *, resolve: bool = True) -> str:
    """Format a config in the form of Python, for reading: one statement per call and plain value.

    Args:
        cfg: a config, or a plain dict or list.
        prefix: the prefix of the names.
        resolve: whether interpolations are replaced by their values.

    Raises:
        ConfigError: an interpolation cannot be resolved.
    """
    lines = _statements(to_plain(cfg, resolve=resolve), prefix.removesuffix("."))
    return "".join(f"{line}\n" for line in lines)


def _statements(value: Any, name: str) -> Iterator[str]:
    if not isinstance(value, dict) or TARGET in value or not value:
        yield f"{name} = {_render(value, column=len(name) + 3)}"
        return
    for key, item in value.items():
        if not (isinstance(key, str) and key.isidentifier()):
            child = f"{name}[{_render(key)}]"
        else:
            child = f"{name}.{key}" if name else key
        yield from _statements(item, child)


def _render(value: Any, *, indent: int = 0, column: int = 0) -> str:
    """Format the Python source of a value that begins at `column` of a statement indented by `indent`."""
    if isinstance(value, str):
        text = repr(value)
        return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text
    if isinstance(value, dict) and TARGET in value:
        target = value[TARGET]
        opening, closing = f"{_render(target) if isinstance(target, dict) else describe(target)}(", ")"
        items = [(f"{key}=", item) for key, item in value.items() if key != TARGET]
    elif isinstance(value, dict):
        opening, closing = "{", "}"
        items = [(f"{_render(key)}: ", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        opening, closing = "[", "]"
        items = [("", item) for item in value]
    else:
        return describe(value)
    return _bracket(opening, items, closing, indent, column)


def _bracket(opening: str, items: list[tuple[str, Any]], closing: str, indent: int, column: int) -> str:
    one_line = opening + ", ".join(label + _render(item) for label, item in items) + closing
    if column + len(one_line) <= _WIDTH or not items:
        return one_line
    margin = " " * (indent + 4)
    lines = [
        f"{margin}{label}{_render(item, indent=indent + 4, column=indent + 4 + len(label))}," for label, item in items
    ]
    return "\n".join([opening, *lines, " " * indent + closing])
