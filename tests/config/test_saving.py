import dataclasses
import enum
import functools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from detrex_lite.config import ConfigError, LazyConfig, instantiate
from detrex_lite.config import LazyCall as L
from detrex_lite.config.nodes import new_config


class Mode(enum.Enum):
    FAST = 1


def scale(x, factor):
    return x * factor


def save_and_load(values, folder):
    cfg = OmegaConf.create(values, flags={"allow_objects": True})
    LazyConfig.save(cfg, folder / "config.yaml")
    return LazyConfig.load(folder / "config.yaml")


def test_saving_and_loading_keeps_all_values(tmp_path):
    values = {
        "model": L(nn.Linear)(in_features="${sizes.0}", out_features="${..sizes.1}"),
        "sizes": (2, 3),
        "train": {
            "lr": 1e-4,
            "text": "1e-4",
            "none": None,
            "none_text": "None",
            "on": "on",
            "missing": "???",
            0: [[], {}],
        },
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = save_and_load(values, tmp_path)
    model = {"_target_": "torch.nn.Linear", "in_features": "${sizes.0}", "out_features": "${..sizes.1}"}
    assert OmegaConf.to_container(loaded) == {**values, "model": model, "sizes": [2, 3]}
    assert OmegaConf.is_interpolation(loaded.model, "in_features")
    assert instantiate(loaded.model).weight.shape == (3, 2)


def test_resolved_configs_contain_no_interpolations(tmp_path):
    cfg = OmegaConf.create({"a": 1, "b": {"c": "${a}"}})
    LazyConfig.save(cfg, tmp_path / "config.yaml", resolve=True)
    assert (tmp_path / "config.yaml").read_text() == "a: 1\nb:\n  c: 1\n"
    assert LazyConfig.to_yaml(cfg) == "a: 1\nb:\n  c: ${a}\n"
    with pytest.raises(ConfigError, match=r"^b: Interpolation key 'x' not found"):
        LazyConfig.to_yaml({"b": "${x}"}, resolve=True)


@pytest.mark.parametrize(
    "value",
    [nn.GELU, scale, torch.float16, Mode.FAST, Path("a/b"), len, np.float32(0.5), np.int64(3)],
    ids=lambda value: str(value)[:20],
)
def test_importable_values_are_restored(value, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = save_and_load({"items": [value], "call": L(dict)(value=value)}, tmp_path)
    assert instantiate(loaded.call)["value"] == value
    assert instantiate(loaded)["items"] == [value]


def test_partials_are_restored(tmp_path):
    cfg = {"f": functools.partial(scale, factor=3), "g": L(functools.partial(scale, 2))(factor=5)}
    built = instantiate(save_and_load(cfg, tmp_path))
    assert built["f"](2) == 6
    assert built["g"] == 10


def test_values_that_cannot_be_saved_are_listed_and_become_missing(tmp_path):
    values = {
        "optimizer": {"factor": lambda name: 0.1, "layers": [nn.ReLU()], "lr": 1},
        "call": L(lambda x: x)(x=1),
    }
    with pytest.warns(
        UserWarning,
        match=r"optimizer\.factor \(.*<lambda> .*test_saving\.py, line \d+\).*optimizer\.layers\.0",
    ):
        loaded = save_and_load(values, tmp_path)
    assert OmegaConf.is_missing(loaded.optimizer, "factor")
    assert OmegaConf.is_missing(loaded.optimizer.layers, 0)
    assert loaded.optimizer.lr == 1
    with pytest.raises(ConfigError, match=r"call\._target_: has no value yet"):
        instantiate(loaded.call)
    text = (tmp_path / "config.yaml").read_text()
    assert text.startswith("# YAML cannot store these values, they are ??? below:\n#   optimizer.factor: ")


def test_saving_does_not_change_the_config(tmp_path):
    cfg = L(nn.Linear)(in_features=1, out_features=2)
    LazyConfig.save(cfg, tmp_path / "config.yaml")
    assert cfg._target_ is nn.Linear


def test_values_of_environment_variables_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD", "hunter2")
    monkeypatch.setenv("WHICH", "PASSWORD")
    values = {
        "uri": "https://user:${oc.env:PASSWORD}@host/${size}",
        "again": "${uri}",
        "nested": {"list": ["${oc.env:${oc.env:WHICH}}", "${size}"], "section": "${section}"},
        "section": {"password": "${oc.env:PASSWORD}", "twice": "${.password}"},
        "default": "${oc.env:NOT_THERE,x}",
        "size": 3,
        "plain": {"size": "${size}", "all": "${nested.list.1}"},
    }
    cfg = OmegaConf.create(values)
    for text in (LazyConfig.to_yaml(cfg, resolve=True), LazyConfig.to_py(cfg)):
        assert "hunter2" not in text
    LazyConfig.save(cfg, tmp_path / "config.yaml", resolve=True)
    loaded = LazyConfig.load(tmp_path / "config.yaml")
    written = OmegaConf.to_container(loaded)
    assert written["uri"] == values["uri"]
    assert written["plain"] == {"size": 3, "all": 3}
    assert OmegaConf.to_container(loaded, resolve=True) == OmegaConf.to_container(cfg, resolve=True)
    assert loaded.again == "https://user:hunter2@host/3"


@dataclasses.dataclass
class Server:
    uri: str = ""
    port: int = 80


@dataclasses.dataclass
class Tracker:
    server: Server = dataclasses.field(default_factory=Server)


@pytest.mark.parametrize("resolve", [False, True])
def test_environment_variables_in_dataclass_instances_are_not_saved(monkeypatch, resolve):
    monkeypatch.setenv("PASSWORD", "hunter2")
    cfg = new_config(
        {
            "size": 3,
            "server": Server(uri="https://me:${oc.env:PASSWORD}@host", port="${size}"),
            "tracker": Tracker(server=Server(uri="${oc.env:PASSWORD}")),
            "servers": [Server(uri="${server.uri}")],
            "again": "${server}",
        }
    )
    text = LazyConfig.to_yaml(cfg, resolve=resolve)
    assert "hunter2" not in text
    assert ("${size}" in text) != resolve
    saved = OmegaConf.create(text)
    assert saved.server.uri == saved.again.uri == saved.servers[0].uri == "https://me:hunter2@host"
    assert saved.tracker.server.uri == "hunter2"
    assert (saved.server.port, saved.servers[0].port) == (3, 80)
