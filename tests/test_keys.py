"""docs/keys.md lists exactly the keys of the shared configs, with their defaults."""

import inspect
import re
from typing import NamedTuple

import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf

from detrex_lite.config import get_config

from .pages import ROOT, text

PAGE = "docs/keys.md"
HEADING = re.compile(r"^### `(?P<prefix>[\w.]+)` of `?(?P<source>[\w.]+)`?$")
ROW = re.compile(r"^\| `(?P<key>[\w.]+)` \| .* \| `?(?P<default>.+?)`? \|$")
DATA = sorted(path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs/common/data").glob("*.py"))
BY_ENGINE = ("optimizer.params.model",)
AUGMENTATIONS = ("dataloader.train.mapper.augmentation", "dataloader.test.mapper.augmentation")


class Row(NamedTuple):
    """A key of the page, the source in the heading above it (a file or a function; "" for none) and its default."""

    key: str
    source: str
    default: str


def rows() -> list[Row]:
    prefix = source = ""
    result = []
    for line in text(PAGE).splitlines():
        if line.startswith("#"):
            heading = HEADING.match(line)
            prefix, source = (f"{heading['prefix']}.", heading["source"]) if heading else ("", "")
        elif row := ROW.match(line):
            result.append(Row(prefix + row["key"], source, row["default"]))
    return result


def children(node):
    """The keys of a node with their values: those that are written, and other arguments of its call."""
    result = {key: node._get_node(key) for key in node if key != "_target_"}
    if "_target_" in node:
        for name, parameter in inspect.signature(node._get_node("_target_")._value()).parameters.items():
            result.setdefault(name, parameter.default)
    return result


def leaves(node, key, stop=()):
    """(key, value) of everything below a node; the nodes at the keys `stop` are not entered."""
    if not isinstance(node, DictConfig) or not len(node) or node._is_none() or key in stop:
        yield key, node
        return
    for name, value in children(node).items():
        if f"{key}.{name}" not in BY_ENGINE:
            yield from leaves(value, f"{key}.{name}", stop)


def shown(value) -> str:
    """A default as the page writes it."""
    if isinstance(value, DictConfig | ListConfig) and not value._is_none():
        value = OmegaConf.to_container(value, resolve=False)
    elif hasattr(value, "_value"):
        value = value._value()
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return '""' if value == "" else str(value)


def expected(source: str) -> dict:
    """The keys and values that the page must have for a source."""
    if source == "":
        data, augmentation = get_config("common/data/coco_detr.py"), dict.fromkeys(AUGMENTATIONS)
        stop = ("dataloader.train.dataset", "dataloader.test.dataset", *augmentation)
        train, optim = get_config("common/train.py").train, get_config("common/optim.py").AdamW
        parts = (leaves(train, "train"), leaves(optim, "optimizer"), leaves(data.dataloader, "dataloader", stop))
        return {key: value for part in parts for key, value in part}
    if source == "DETR":
        loaders = get_config("common/data/coco_detr.py").dataloader
        parts = (
            leaves(loaders[kind].mapper.augmentation, key)
            for kind, key in zip(("train", "test"), AUGMENTATIONS, strict=True)
        )
        return {key: value for part in parts for key, value in part}
    if source.endswith(".py"):
        cfg = get_config(f"common/data/{source}")
        return dict(leaves(cfg.dataset, "dataset")) if "dataset" in cfg else {}
    functions = {node._get_node("_target_")._value() for node in get_config("common/schedule.py").values()}
    function = {function.__name__: function for function in functions}[source]
    return {f"lr_multiplier.{name}": p.default for name, p in inspect.signature(function).parameters.items()}


def test_each_key_is_listed_once():
    keys = [(row.key, row.source) for row in rows()]
    assert len(keys) == len(set(keys)) > 100


@pytest.mark.parametrize("source", ["", "DETR", "folder.py", "custom_coco.py", "custom_voc.py", "shapes.py"])
def test_keys_and_defaults_are_those_of_the_shared_configs(source):
    listed = {row.key: row.default for row in rows() if row.source == source}
    values = expected(source)
    assert set(listed) == set(values)
    wrong = {key: shown(values[key]) for key, default in listed.items() if default not in ("-", shown(values[key]))}
    assert wrong == {}


def test_every_schedule_is_described_with_its_arguments():
    schedules = get_config("common/schedule.py").values()
    names = {node._get_node("_target_")._value().__name__ for node in schedules}
    assert names == {row.source for row in rows() if row.key.startswith("lr_multiplier.")}
    for name in names:
        listed = {row.key: row.default for row in rows() if row.source == name}
        values = expected(name)
        required = inspect.Parameter.empty
        assert listed == {key: "-" if value is required else shown(value) for key, value in values.items()}


@pytest.mark.parametrize("file", sorted({row.source for row in rows() if row.source.startswith("coco_")}))
def test_keys_of_other_data_are_in_their_files(file):
    loaders = get_config(f"common/data/{file}").dataloader
    listed = {row.key: row.default for row in rows() if row.source == file}
    values = dict(leaves(loaders, "dataloader", stop=tuple(listed)))
    assert set(listed) <= set(values)
    assert {key: shown(values[key]) for key in listed if listed[key] not in ("-", shown(values[key]))} == {}


@pytest.mark.parametrize("file", DATA)
def test_every_key_of_shared_data_is_described(file):
    listed = {row.key for row in rows()}
    cfg = get_config(file)
    written = [key for name in cfg for key, _ in leaves(cfg._get_node(name), name, stop=tuple(listed))]
    covered = (*(f"{key}." for key in listed), "dataloader.evaluator.evaluators")
    assert [key for key in written if key not in listed and not key.startswith(covered)] == []
