import math

import pytest

from detrex_lite.config import ConfigError
from detrex_lite.config.values import parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-3", -3),
        ("1_000", 1000),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-2.", -2.0),
        ("inf", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ("", ""),
        ("cpu", "cpu"),
        ("no", "no"),
        ("007", "007"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("/data/*.jpg", "/data/*.jpg"),
        ("a: b #c", "a: b #c"),
        ("${train.lr}", "${train.lr}"),
        ('"123"', "123"),
        ("'null'", "null"),
        ("[1,2]", [1, 2]),
        ("[1e-4, a, null, [true]]", [1e-4, "a", None, [True]]),
        ("[]", []),
        ("{}", {}),
        ("{a: 1, b: x}", {"a": 1, "b": "x"}),
        ("{a:1,b:{c:[1,2]},d:x}", {"a": 1, "b": {"c": [1, 2]}, "d": "x"}),
        ("['${a}', \"b\"]", ["${a}", "b"]),
    ],
)
def test_values_are_parsed_as_yaml_or_text(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["[1, 2", "{a: 1", "'a", "[1]]", '"a" b'])
def test_unbalanced_values_raise(text):
    with pytest.raises(ConfigError, match="cannot read the value"):
        parse_value(text)
