"""Reading the value of a command line override."""

import re
from typing import Any, ClassVar

import yaml

from .error import ConfigError


class _Loader(yaml.SafeLoader):
    """A YAML loader whose plain scalars are Python's numbers, true, false and null; everything else is text.

    YAML 1.1 would read 1e-4 as text, `no` as false, 12:30 as a number and 2020-01-01 as a date.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}


for _tag, _pattern in {
    "null": r"null|Null|NULL|None|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9]\d*(_\d+)*)",
    "float": r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.?inf|\.?nan",
}.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)


def parse_value(text: str) -> Any:
    """Parse the value in a command line argument.

    Values are numbers (including `1e-4`), `true`, `false`, `null` and `None`; lists `[1, a]` and dicts `{a: 1, b: x}`,
    with optional spaces; and text in quotes. Everything else is text.

    Raises:
        ConfigError: an unbalanced bracket or quote.
    """
    text = text.strip()
    if not text:
        return ""
    if text[0] in "[{\"'":
        try:
            return _split_colons(yaml.load(text, Loader=_Loader))
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or str(error)
            raise ConfigError(f"cannot read the value {text!r}: {problem}") from error
    return _parse_scalar(text)


def _parse_scalar(text: str) -> Any:
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, text))


def _split_colons(value: Any) -> Any:
    """Interpret `{a:1}` as `{a: 1}`; YAML would read it as a key without a value."""
    if isinstance(value, list):
        return [_split_colons(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, item in value.items():
        if item is None and isinstance(key, str) and ":" in key:
            key, _, text = key.partition(":")
            item = _parse_scalar(text)
        result[key] = _split_colons(item)
    return result
