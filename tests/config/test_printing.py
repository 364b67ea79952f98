import itertools

import pytest
from omegaconf import OmegaConf
from torch import nn

from detrex_lite.config import ConfigError, LazyConfig
from detrex_lite.config import LazyCall as L


def test_to_py_prints_calls_and_assignments():
    long = {f"name_{index}": L(nn.ReLU)(inplace=True) for index in range(3)}
    cfg = OmegaConf.create(
        {
            "train": {"max_iter": 90, "amp": {"enabled": False}, "ddp": {}, "odd key": [1, "it's", 'a "b"']},
            "model": L(nn.Sequential)(_args_=[L(nn.Linear)(in_features="${size}", out_features=2), long]),
            "size": 3,
            "counter": L("itertools.count")(start=nn.GELU),
        },
        flags={"allow_objects": True},
    )
    assert LazyConfig.to_py(cfg) == (
        "cfg.train.max_iter = 90\n"
        "cfg.train.amp.enabled = False\n"
        "cfg.train.ddp = {}\n"
        'cfg.train["odd key"] = [1, "it\'s", \'a "b"\']\n'
        "cfg.model = torch.nn.Sequential(\n"
        "    _args_=[\n"
        "        torch.nn.Linear(in_features=3, out_features=2),\n"
        "        {\n"
        '            "name_0": torch.nn.ReLU(inplace=True),\n'
        '            "name_1": torch.nn.ReLU(inplace=True),\n'
        '            "name_2": torch.nn.ReLU(inplace=True),\n'
        "        },\n"
        "    ],\n"
        ")\n"
        "cfg.size = 3\n"
        "cfg.counter = itertools.count(start=torch.nn.GELU)\n"
    )


def test_interpolations_are_printed_unresolved_on_request():
    cfg = {"a": "${b}", "b": 1}
    assert LazyConfig.to_py(cfg, prefix="", resolve=False) == 'a = "${b}"\nb = 1\n'
    with pytest.raises(ConfigError, match=r"^a: Interpolation key 'c' not found"):
        LazyConfig.to_py({"a": "${c}"})


def test_a_call_at_the_top_level_is_printed():
    assert LazyConfig.to_py(L(itertools.count)(start=1)) == "cfg = itertools.count(start=1)\n"
    assert LazyConfig.to_py(L(L(itertools.count)(start=1))()) == "cfg = itertools.count(start=1)()\n"
