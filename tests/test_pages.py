"""Links, anchors, navigation and names of the documentation are right. Building the site is in the slow suite."""

import os
import re
import subprocess
import sys
from importlib import import_module, util
from urllib.parse import unquote

import pytest
import yaml

from .pages import ROOT, links, text

PAGES = links.pages()
DOTTED = re.compile(r"`(detrex_lite(?:\.\w+)+)(?=[`(])")
PART_OF_CONFIG = re.compile(
    r'get_config\(\s*"(.+?)"|^from (\.\S*|detrex_lite\.(?:configs|projects)\.\S+) import', re.MULTILINE
)
LEFT_COLUMN = re.compile(r"^\| .*? \| (?=.*\|$)", re.MULTILINE)


def navigation() -> list[str]:
    """The pages of mkdocs.yml."""

    def pages(node):
        if isinstance(node, str):
            return [node]
        return [page for part in (node.values() if isinstance(node, dict) else node) for page in pages(part)]

    return pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])


def prose(page: str) -> str:
    """The text of a page or of a notebook."""
    if not page.endswith(".ipynb"):
        return text(page)
    return "\n".join("".join(cell["source"]) for cell in links.cells(page) if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("page", [*PAGES, *links.notebooks()])
def test_links_point_to_existing_files_and_headings(page):
    broken = []
    for target, anchor in links.links(prose(page)):
        path = links.resolve(page, target)
        is_api = path is not None and path.startswith("docs/api/")  # headings come from docstrings
        is_page = path is not None and path.endswith(".md")
        if path is None or (anchor and not is_api and is_page and anchor not in links.anchors(text(path))):
            broken.append(target + anchor)
    assert broken == []


def test_every_page_is_in_the_navigation_once():
    entries = navigation()
    pages = [*PAGES, *(f"{notebook}.md" for notebook in links.notebooks())]
    assert sorted(entries) == sorted(set(entries))
    assert set(entries) == set(pages)


@pytest.mark.parametrize("page", PAGES)
def test_names_of_this_package_exist(page):
    content = text(page)
    if page == "docs/coming_from.md":  # the left columns of its tables have names of other projects
        content = LEFT_COLUMN.sub("", content)
    assert [name for name in sorted(set(DOTTED.findall(content))) if not exists(name)] == []


def exists(name: str) -> bool:
    """Whether a dotted name is that of a module, or of an attribute of a module, class or object."""
    module, *attributes = name.split(".")
    value = import_module(module)
    for attribute in attributes:
        module = f"{module}.{attribute}"
        if hasattr(value, attribute):
            value = getattr(value, attribute)
        elif isinstance(value, type(os)) and util.find_spec(module):
            value = import_module(module)
        else:
            return False
    return True


def test_the_reference_has_all_public_names():
    documented = {name for page in links.pages() for name in re.findall(r"^::: (\S+)$", text(page), re.MULTILINE)}
    packages = [path.parent.name for path in ROOT.glob("detrex_lite/*/__init__.py")]
    missing = []
    for package in sorted(set(packages) - {"cli", "commands", "skeleton"}):
        module = import_module(f"detrex_lite.{package}")
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            # Constants have no `__module__`.
            home = value.__module__ if hasattr(value, "__module__") else next(iter(documented))
            if not any(
                f"{origin}.".startswith(f"{prefix}.") for origin in (module.__name__, home) for prefix in documented
            ):
                missing.append(f"{package}.{name}")
    assert missing == []


def test_what_configs_build_on_is_found():
    names = [(config, "".join(pair)) for config in links.configs() for pair in PART_OF_CONFIG.findall(text(config))]
    assert len(names) > len(links.configs())
    assert [(config, name) for config, name in names if links.imported(config, name) is None] == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("common/optim.py", "configs/common/optim.py"),
        ("projects/detr/configs/detr_r50_300ep.py", "projects/detr/configs/detr_r50_300ep.py"),
        (".models.dino_r50", "projects/dino/configs/models/dino_r50.py"),
        ("..modeling", "projects/dino/modeling/__init__.py"),
        ("detrex_lite.projects.dino.modeling", "projects/dino/modeling/__init__.py"),
        ("detrex_lite.data", "detrex_lite/data/__init__.py"),
        ("torch", None),
        ("common/nothing.py", None),
    ],
)
def test_names_in_configs_lead_to_files(name, path):
    assert links.imported("projects/dino/configs/dino_r50_4scale_12ep.py", name) == path


def test_links_in_code_are_ignored():
    page = "[a](b.md#c) `[d](e.md)`\n```\n[f](g.md)\n```\n![h](i.png) [j](https://k.l) [m](#n)"
    assert list(links.links(page)) == [("b.md", "#c"), ("i.png", ""), ("", "#n")]
    assert links.map_links(page, lambda target, anchor: "X").count("](X)") == 3


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [("What N processes change", "what-n-processes-change"), ("`a.b`, c & [d](e.md)!", "ab-c--d")],
)
def test_anchors_follow_the_rule_of_github(heading, anchor):
    assert links.slug(heading) == anchor
    assert links.anchors(f"# {heading}\n# {heading}\n") == {f"#{anchor}", f"#{anchor}-1"}


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_the_network(tmp_path):
    pytest.importorskip("mkdocs", reason="building the site needs the extra `docs`")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    site = tmp_path / "site"
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES) + len(links.configs())
    config = site / "projects/dino/configs/dino_r50_4scale_12ep.py.html"
    assert 'href="../../../configs/common/optim.py.html"' in config.read_text()
    assert list(site.glob("assets/javascripts/workers/search.*.js"))
    for page in pages:
        html = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(https?:[^\"]+)", html)
        loaded += re.findall(r"<link[^>]*\srel=\"(?!canonical)[^>]*href=\"(https?:[^\"]+)", html)
        assert loaded == [], page
        local = re.findall(r"<(?:script|img|link|a)\b[^>]*\s(?:src|href)=\"([^\":#?]+)[\"#?]", html)
        # Links of 404.html begin at the root.
        files = [
            site / target[1:] if target.startswith("/") else page.parent / target for target in map(unquote, local)
        ]
        assert [path for path in files if not path.exists()] == [], page
        assert 'class="arithmatex"' not in html, page
