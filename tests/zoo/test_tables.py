"""The tables of the projects: every entry names a config that gives a model."""

from collections import Counter

import pytest
import torch

import detrex_lite
from detrex_lite.checkpoint import KEY_MAPS
from detrex_lite.config import instantiate
from detrex_lite.zoo import load_zoo, read_table

TABLES = sorted((detrex_lite.SHIPPED_IN / "projects").glob("*/zoo.py"))
FORMATS = {*(key_map.name for key_map in KEY_MAPS), "transformers"}

# Several checkpoints are of one model.
MODELS = {(entry.config_file, entry.overrides): entry for entry in load_zoo().values()}
CHANGED = [entry for entry in MODELS.values() if entry.overrides]


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
        assert entry.name.startswith(entry.project)
        assert entry.box_ap is None or 30 < entry.box_ap < 65


def build_on_meta(entry):
    cfg = entry.load_config()
    # As the data set numbers them, on which it is evaluated.
    assert cfg.model.num_classes == 80
    assert cfg.dataloader.test.dataset.name == "coco_2017_val"
    with torch.device("meta"):
        return instantiate(cfg.model)


# Configs themselves are tested where all are.
@pytest.mark.parametrize("entry", CHANGED, ids=name)
def test_overrides_give_a_model(entry):
    build_on_meta(entry)


@pytest.mark.slow
@pytest.mark.parametrize("entry", MODELS.values(), ids=name)
def test_every_entry_gives_a_model(entry):
    build_on_meta(entry)
