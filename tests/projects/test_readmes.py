"""Links, configs and options in the READMEs of projects are valid."""

import copy
import functools
import re
import shlex
from pathlib import Path

import pytest

import detrex_lite.projects
from detrex_lite.config import LazyConfig, validate

PROJECTS = Path(next(iter(detrex_lite.projects.__path__)))
READMES = sorted(PROJECTS.glob("*/README.md"))
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
OPTIONS = re.compile(r"^## Options\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
ROW = re.compile(r"^\| (.+) \| `(.+)` \|$", re.MULTILINE)


def options():
    """(config, overrides) of each row of the tables of options."""
    for readme in READMES:
        section = OPTIONS.search(readme.read_text())
        if section is not None:
            config = readme.parent / LINK.search(section[1])[1]
            for description, overrides in ROW.findall(section[1]):
                yield pytest.param(config, shlex.split(overrides), id=f"{readme.parent.name}: {description}")


def test_every_project_has_a_readme():
    assert {path.parent for path in READMES} == {path.parent.parent for path in PROJECTS.glob("*/configs/models")}


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_links_point_to_existing_files(readme):
    missing = [link for link in LINK.findall(readme.read_text()) if not (readme.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_readmes_link_existing_leaf_configs(readme):
    linked = set(re.findall(r"\(configs/(\w+\.py)\)", readme.read_text()))
    assert linked <= {path.name for path in readme.parent.glob("configs/*.py")}
    assert linked


@functools.cache
def load_config(config):
    return LazyConfig.load(str(config))


@pytest.mark.parametrize(("config", "overrides"), list(options()))
def test_options_are_valid_overrides(config, overrides):
    cfg = LazyConfig.apply_overrides(copy.deepcopy(load_config(config)), overrides)
    validate(cfg)


def test_options_are_found():
    assert len(list(options())) > 50
