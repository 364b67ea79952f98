import pytest

from detrex_lite.config import ConfigError, ConstructionError, explain, instantiate
from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import QueryLayout


class Part:
    def __init__(self, width, suffix="a"):
        self.width = self.widened(width, suffix)

    def widened(self, width, suffix):
        if width < 0:
            raise ValueError(f"width={width} is below 0")
        return width + suffix


def error_of(cfg):
    with pytest.raises(ConfigError) as caught:
        instantiate(cfg)
    return caught.value


def test_an_error_in_the_code_of_a_constructor_shows_its_traceback():
    error = error_of(L(Part)(width=1))
    assert isinstance(error, ConstructionError)
    text = explain(error)
    assert "return width + suffix" in text
    assert "instantiation.py" not in text
    assert text.splitlines()[-1].startswith("error: tests.config.test_error.Part failed: TypeError")


def test_a_value_rejected_by_a_constructor_is_reported_with_file_and_line():
    text = explain(error_of(L(Part)(width=-1)))
    assert "Traceback" not in text
    first, second = text.splitlines()
    assert first.endswith("ValueError: width=-1 is below 0")
    assert "test_error.py, line 14 (widened)" in second
    assert "return" not in text


@pytest.mark.parametrize("cfg", [L(Part)(), L(range)(_args_=["a"]), L(QueryLayout)(num_queries=0)])
def test_faults_of_the_config_are_reported_in_a_single_line(cfg):
    text = explain(error_of(cfg))
    assert text.startswith("error: ")
    assert "\n" not in text
    assert "Traceback" in explain(error_of(cfg), with_traceback=True)
