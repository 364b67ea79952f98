"""The tables of the projects: every entry names a config that gives a model."""

from collections import Counter
from pathlib import Path

import pytest
import torch

import detrex_lite
from detrex_lite.checkpoint import KEY_MAPS
from detrex_lite.config import LazyConfig, instantiate
from detrex_lite.zoo import load_zoo, read_table

TABLES = sorted((detrex_lite.SHIPPED_IN / "projects").glob("*/zoo.py"))
FORMATS = {*(key_map.name for key_map in KEY_MAPS), "transformers"}


def test_there_are_tables():
    assert {"detr", "dino"} <= {table.parent.name for table in TABLES}


def test_no_file_is_listed_twice():
    urls = Counter(entry.url for entry in load_zoo().values() if entry.url)
    assert [url for url, count in urls.items() if count > 1] == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.parent.name)
def test_every_entry_builds(table: Path):
    built = set()
    for entry in read_table(table):
        assert entry.format in FORMATS
        assert entry.name.startswith(entry.project)
        assert entry.box_ap is None or 30 < entry.box_ap < 65
        cfg = entry.load_config()
        # Models of published checkpoints predict the classes of the data set that they are evaluated on.
        assert cfg.model.num_classes == 80
        assert cfg.dataloader.test.dataset.name == "coco_2017_val"
        text = LazyConfig.to_yaml(cfg.model)
        if text not in built:
            built.add(text)
            with torch.device("meta"):
                instantiate(cfg.model)
