import copy
import dataclasses
from collections import OrderedDict

import pytest
from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import instantiate


@dataclasses.dataclass
class Size:
    width: int
    height: int = 2


def test_a_call_is_recorded_and_can_be_edited():
    cfg = L(nn.Linear)(in_features=2, out_features=3)
    cfg.out_features = 5
    assert cfg._target_ is nn.Linear
    assert instantiate(cfg).weight.shape == (5, 2)


def test_a_target_may_be_a_dotted_path():
    assert isinstance(instantiate(L("torch.nn.Linear")(in_features=2, out_features=3)), nn.Linear)


def test_a_target_may_be_a_call_that_returns_a_callable():
    assert instantiate(L(L("functools.partial")(_args_=[max, 3]))(_args_=[7])) == 7


@pytest.mark.parametrize("target", [Size, dict, OrderedDict])
def test_dataclasses_and_dicts_can_be_targets(target):
    built = instantiate(L(target)(width=1))
    assert type(built) is target
    assert built == (Size(1) if target is Size else {"width": 1})


def test_positional_arguments_raise():
    with pytest.raises(TypeError, match=r"LazyCall\(torch\.nn\.Linear\) .*keyword arguments.* 2 positional"):
        L(nn.Linear)(2, 3)


def test_a_target_that_is_not_callable_raises():
    with pytest.raises(TypeError, match="callable .*not 3"):
        L(3)


def test_tuples_become_editable_lists():
    cfg = L(nn.Conv2d)(in_channels=1, out_channels=1, kernel_size=(3, 3), more={"inner": ((1, 2), 3)})
    cfg.kernel_size[0] = 5
    assert cfg.kernel_size == [5, 3]
    assert cfg.more.inner == [[1, 2], 3]
    cfg.kernel_size = 7
    assert cfg.kernel_size == 7


def test_a_config_can_be_copied():
    cfg = L(nn.Sequential)(_args_=[L(nn.ReLU)(inplace=False)])
    copied_cfg = copy.deepcopy(cfg)
    copied_cfg._args_[0].inplace = True
    assert not cfg._args_[0].inplace
