import inspect

import pytest
import torch
from torch import nn

from detrex_lite.arguments import inherits_arguments
from detrex_lite.config import ConfigError, validate
from detrex_lite.config import LazyCall as L
from detrex_lite.config.targets import accepted_names


class General(nn.Module):
    def __init__(self, *, width: int, depth: int = 2):
        super().__init__()
        self.size = (width, depth)


@inherits_arguments
class Special(General):
    def __init__(self, *, extra: float, depth: int = 5, **general):
        super().__init__(depth=depth, **general)
        self.extra = extra


@inherits_arguments
class MoreSpecial(Special):
    def __init__(self, *, last: str = "", **special):
        super().__init__(**special)
        self.last = last


class Plain(Special):
    pass


class WithItsOwn(Special):
    def __init__(self, size):
        super().__init__(extra=0.0, width=size)


def test_the_signature_has_the_arguments_of_all_classes_and_a_default_of_the_last_that_gives_one():
    assert str(inspect.signature(Special)) == "(*, extra: float, depth: int = 5, width: int)"
    assert accepted_names(MoreSpecial) == ["last", "extra", "depth", "width"]
    assert inspect.signature(MoreSpecial).parameters["depth"].default == 5


def test_arguments_arrive():
    assert MoreSpecial(width=3, extra=0.5, last="x").size == (3, 5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'widht'"):
        MoreSpecial(widht=3, extra=0.5)


def test_classes_that_extend_a_decorated_one_have_their_own_signature():
    assert inspect.signature(Plain) == inspect.signature(Special)
    assert accepted_names(WithItsOwn) == ["size"]


def test_positional_arguments_become_keywords_and_further_ones_stay():
    class Layer(nn.Linear):
        def __init__(self, scale=1.0, **linear):
            super().__init__(**linear)

    class Anything(nn.Module):
        def __init__(self, *, name, **rest):
            super().__init__(**rest)

    parameters = inspect.signature(inherits_arguments(Layer)).parameters
    assert list(parameters) == ["scale", "in_features", "out_features", "bias", "device", "dtype"]
    assert parameters["in_features"].kind is inspect.Parameter.KEYWORD_ONLY
    assert Layer(2.0, in_features=3, out_features=4)(torch.zeros(1, 3)).shape == (1, 4)
    assert list(inspect.signature(inherits_arguments(Anything)).parameters) == ["name", "kwargs"]


def test_a_config_is_checked_as_if_the_arguments_were_written_out():
    validate(L(MoreSpecial)(width=1, extra=0.1))
    with pytest.raises(ConfigError) as raised:
        validate(L(MoreSpecial)(widht=1, extra=0.1))
    message = str(raised.value)
    assert "has no argument 'widht'; did you mean 'width'?" in message
    assert "width: " in message
    assert "needs this argument" in message


def test_a_constructor_that_hands_nothing_on_is_an_error():
    class Nothing(General):
        pass

    class Listed(General):
        def __init__(self, *, width):
            super().__init__(width=width)

    for cls in (Nothing, Listed):
        with pytest.raises(
            TypeError, match=f"{cls.__name__} has no constructor of its own that takes further arguments"
        ):
            inherits_arguments(cls)
