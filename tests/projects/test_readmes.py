"""What READMEs of projects say about files and configs is so."""

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
    """(config, what a row of a table of options is about, its overrides)"""
    for readme in READMES:
        section = OPTIONS.search(readme.read_text())
        if section is not None:
            config = readme.parent / LINK.search(section[1])[1]
            for about, overrides in ROW.findall(section[1]):
                yield pytest.param(config, shlex.split(overrides), id=f"{readme.parent.name}: {about}")


def test_every_project_has_a_readme():
    assert {path.parent for path in READMES} == {path.parent.parent for path in PROJECTS.glob("*/configs/models")}


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_links_lead_to_files(readme):
    missing = [link for link in LINK.findall(readme.read_text()) if not (readme.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_leaf_configs_are_named(readme):
    named = set(re.findall(r"\(configs/(\w+\.py)\)", readme.read_text()))
    assert named <= {path.name for path in readme.parent.glob("configs/*.py")}
    assert named


@functools.cache
def loaded(config):
    return LazyConfig.load(str(config))


@pytest.mark.parametrize(("config", "overrides"), list(options()))
def test_options_are_overrides_that_the_config_takes(config, overrides):
    cfg = LazyConfig.apply_overrides(copy.deepcopy(loaded(config)), overrides)
    validate(cfg)


def test_there_are_options():
    assert len(list(options())) > 50
