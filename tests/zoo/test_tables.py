"""The tables of the projects: every entry has a config from which its model can be built."""

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

# Several checkpoints may have the same model.
MODELS = {(entry.config_file, entry.overrides): entry for entry in load_zoo().values()}
CHANGED = [entry for entry in MODELS.values() if entry.overrides]

# number of classes -> data set; 133 classes are things and stuff
DATA_SETS = dict(zip((80, 133), PUBLISHED_ON, strict=True))


def name(entry_or_table):
    return entry_or_table.parent.name if hasattr(entry_or_table, "parent") else entry_or_table.name


def test_no_file_is_listed_twice():
    urls = Counter(entry.url for entry in load_zoo().values() if entry.url)
    assert [url for url, count in urls.items() if count > 1] == []


@pytest.mark.parametrize("table", TABLES, ids=name)
def test_entries_have_valid_values(table):
    for entry in read_table(table):
        assert entry.config_file.is_file(), entry.name
        assert entry.format in FORMATS, entry.name
        assert entry.name.startswith(entry.project.removesuffix("_detr"))
        assert entry.box_ap is None or 30 < entry.box_ap < 65


def build_on_meta(entry):
    cfg = entry.load_config()
    # The classes must be those of the data set for evaluation.
    assert cfg.dataloader.test.dataset.name == DATA_SETS[cfg.model.num_classes]
    with torch.device("meta"):
        return instantiate(cfg.model)


# Configs without overrides are tested in tests/projects.
@pytest.mark.parametrize("entry", first_of_each(CHANGED, lambda entry: entry.config_file), ids=name)
def test_models_with_overrides_build(entry):
    build_on_meta(entry)


@pytest.mark.slow
@pytest.mark.parametrize("entry", MODELS.values(), ids=name)
def test_the_model_of_every_entry_builds(entry):
    build_on_meta(entry)


README = re.compile(r"^## Published checkpoints\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("table", TABLES, ids=name)
def test_readmes_name_entries_with_their_published_numbers(table):
    zoo = {entry.name: entry for entry in read_table(table)}
    section = README.search((table.parent / "README.md").read_text())[1]
    named = re.findall(r"`(\w+)`(?:(?:,\s+|\s+\()(?:box\s+AP\s+)?(\d+(?:\.\d+)?))?", section)
    assert named
    assert {name: float(ap) if ap else None for name, ap in named} == {name: zoo[name].box_ap for name, _ in named}
    commands = re.findall(r"^detrex-lite (?:predict --model|zoo evaluate) (\S+)", section, re.MULTILINE)
    assert len(commands) == 2
    assert set(commands) <= set(zoo)


def test_names_and_counts_of_the_main_readme_agree_with_the_zoo():
    readme = (detrex_lite.SHIPPED_IN / "README.md").read_text()
    names = set(re.findall(r"(?:--model |detrex_lite\.load\(\")(\w+)", readme))
    assert names
    assert names <= set(load_zoo())
    counts = re.search(r"names the (\d+) published checkpoints of ([\w-]+) detectors", readme)
    assert int(counts[1]) == len(load_zoo())
    assert counts[2] == "twenty-one"
    assert len({entry.project for entry in load_zoo().values()}) == 21
