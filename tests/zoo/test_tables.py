"""The tables of the projects: every entry names a config that gives a model."""

import re
from collections import Counter

import pytest
import torch

import detrex_lite
from detrex_lite.checkpoint import KEY_MAPS
from detrex_lite.config import instantiate
from detrex_lite.zoo import load_zoo, read_table
from detrex_lite.zoo.evaluate import PUBLISHED_ON
from tests.suites import first_of_each

TABLES = sorted((detrex_lite.SHIPPED_IN / "projects").glob("*/zoo.py"))
FORMATS = {key_map.name for key_map in KEY_MAPS}

# Several checkpoints are of one model.
MODELS = {(entry.config_file, entry.overrides): entry for entry in load_zoo().values()}
CHANGED = [entry for entry in MODELS.values() if entry.overrides]

# By the number of classes: of things, and of things and stuff.
DATA_SETS = dict(zip((80, 133), PUBLISHED_ON, strict=True))


def name(one):
    return one.parent.name if hasattr(one, "parent") else one.name


def test_no_file_is_listed_twice():
    urls = Counter(entry.url for entry in load_zoo().values() if entry.url)
    assert [url for url, count in urls.items() if count > 1] == []


@pytest.mark.parametrize("table", TABLES, ids=name)
def test_entries_are_what_they_say(table):
    for entry in read_table(table):
        assert entry.config_file.is_file(), entry.name
        assert entry.format in FORMATS, entry.name
        assert entry.name.startswith(entry.project.removesuffix("_detr"))
        assert entry.box_ap is None or 30 < entry.box_ap < 65


def build_on_meta(entry):
    cfg = entry.load_config()
    # As the data set numbers them, on which it is evaluated.
    assert cfg.dataloader.test.dataset.name == DATA_SETS[cfg.model.num_classes]
    with torch.device("meta"):
        return instantiate(cfg.model)


# Configs themselves are tested where all are.
@pytest.mark.parametrize("entry", first_of_each(CHANGED, lambda entry: entry.config_file), ids=name)
def test_overrides_give_a_model(entry):
    build_on_meta(entry)


@pytest.mark.slow
@pytest.mark.parametrize("entry", MODELS.values(), ids=name)
def test_every_entry_gives_a_model(entry):
    build_on_meta(entry)


README = re.compile(r"^## Published checkpoints\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("table", TABLES, ids=name)
def test_readmes_name_entries_with_their_published_numbers(table):
    zoo = {entry.name: entry for entry in read_table(table)}
    section = README.search((table.parent / "README.md").read_text())[1]
    named = re.findall(r"`(\w+)`(?:(?:,\s+|\s+\()(?:box\s+AP\s+)?(\d+(?:\.\d+)?))?", section)
    assert named
    assert {name: float(ap) if ap else None for name, ap in named} == {name: zoo[name].box_ap for name, _ in named}
    commands = re.findall(r"^python tools/(?:predict.py --model|zoo.py evaluate) (\S+)", section, re.MULTILINE)
    assert len(commands) == 2
    assert set(commands) <= set(zoo)


def test_the_first_example_of_the_main_readme_is_in_the_zoo():
    readme = (detrex_lite.SHIPPED_IN / "README.md").read_text()
    named = set(re.findall(r"(?:--model |detrex_lite\.load\(\")(\w+)", readme))
    assert named
    assert named <= set(load_zoo())
    counts = re.search(r"names the (\d+) published checkpoints of ([\w-]+) detectors", readme)
    assert int(counts[1]) == len(load_zoo())
    assert counts[2] == "twenty-one"
    assert len({entry.project for entry in load_zoo().values()}) == 21
