"""Links of the Markdown pages: where each leads in the repository. It needs the standard library only."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Everything that is a page of the site, by its path in the repository. A page has the same path on the site,
# so that one relative link is right here, on the site and in a web view of the repository.
PAGES = ("*.md", "docs/**/*.md", "projects/README.md", "projects/*/README.md", "tests/oracle/README.md")
NOTEBOOKS = ("docs/notebooks/*.ipynb",)
CONFIGS = ("configs/common/**/*.py", "projects/*/configs/**/*.py")  # all are shown, because configs build on each other
IMAGES = (".png", ".svg")

_CODE = r"(?P<fence>^ *(?P<mark>```+|~~~+).*?^ *(?P=mark) *$)|(?P<inline>`[^`\n]+`)"
_LINK = r"(?P<label>\]\()(?P<target>(?![a-z]+:)[^)\s#]*)(?P<anchor>#[^)\s]*)?(?=\))"
_LINK_OR_CODE = re.compile(f"{_CODE}|{_LINK}", re.DOTALL | re.MULTILINE)


def pages() -> list[str]:
    """Paths of all pages, relative to the repository and with forward slashes."""
    return sorted({path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)})


def notebooks() -> list[str]:
    """Paths of all notebooks, as `pages`."""
    return sorted(path.relative_to(ROOT).as_posix() for pattern in NOTEBOOKS for path in ROOT.glob(pattern))


def configs() -> list[str]:
    """Paths of all config files, as `pages`."""
    return sorted({path.relative_to(ROOT).as_posix() for pattern in CONFIGS for path in ROOT.glob(pattern)})


def imported(config: str, name: str) -> str | None:
    """The file that a config builds on, relative to the repository; None if there is no such file.

    Args:
        config: path of the config that names it.
        name: the argument of `get_config`, such as "common/optim.py", or the module of an import, such as
            ".models.dino_r50" or "detrex_lite.projects.dino.modeling".
    """
    if name.endswith(".py"):
        path = f"configs/{name}" if name.startswith("common/") else name
    elif name.startswith((".", "detrex_lite.")):
        module = name.lstrip(".")
        path = module.replace(".", "/")
        if module != name:
            path = (PurePosixPath(config).parents[len(name) - len(module) - 1] / path).as_posix()
        elif module.startswith(("detrex_lite.configs.", "detrex_lite.projects.", "detrex_lite.tools.")):
            path = path.removeprefix("detrex_lite/")
        path = f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"
    else:
        return None
    return path if (ROOT / path).is_file() else None


def cells(notebook: str) -> list[dict[str, Any]]:
    """The cells of a notebook, as its file has them."""
    return json.loads((ROOT / notebook).read_text())["cells"]


def map_links(text: str, change: Callable[[str, str], str]) -> str:
    """Replace relative links outside of code.

    Args:
        text: Markdown.
        change: from (target without anchor, anchor with "#" or "") to the new link.
    """

    def replace(match: re.Match[str]) -> str:
        if match["label"] is None:
            return match[0]
        return match["label"] + change(match["target"], match["anchor"] or "")

    return _LINK_OR_CODE.sub(replace, text)


def links(text: str) -> Iterator[tuple[str, str]]:
    """(target without anchor, anchor with "#" or "") of each relative link outside of code."""
    for match in _LINK_OR_CODE.finditer(text):
        if match["label"] is not None:
            yield match["target"], match["anchor"] or ""


def resolve(page: str, target: str) -> str | None:
    """The file that a link of a page leads to, relative to the repository; None if there is no such file.

    A link to a folder leads to its README, as in a web view of the repository, or to its `__init__.py`. An empty
    target is the page itself.
    """
    path = (ROOT / PurePosixPath(page).parent / target).resolve() if target else ROOT / page
    if path.is_dir():
        path = path / ("README.md" if (path / "README.md").exists() else "__init__.py")
    return path.relative_to(ROOT).as_posix() if path.is_file() and path.is_relative_to(ROOT) else None


def slug(heading: str, separator: str = "-") -> str:
    """The anchor of a heading, by the rule of GitHub: lower case, without punctuation, hyphens for spaces."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", separator)


def anchors(text: str) -> set[str]:
    """The anchors of all headings of a page, each with "#" in front."""
    without_code = re.sub(_CODE.split("|(?P<inline>")[0], "", text, flags=re.DOTALL | re.MULTILINE)
    seen: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", without_code, re.MULTILINE):
        name = slug(heading)
        count = seen.get(name, 0)
        seen[name] = count + 1
        result.add(f"#{name}-{count}" if count else f"#{name}")
    return result
