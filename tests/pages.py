"""The pages of the documentation: their code, and their links as docs/site/links.py reads them."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
_NAME = re.compile(r"# (\S+\.py)\n")

_spec = importlib.util.spec_from_file_location("links", ROOT / "docs/site/links.py")
links = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(links)


class Block(NamedTuple):
    """A block of code.

    Attributes:
        code: the text.
        name: the name of the file that the block shows, from its first line `# name.py`; None for other code.
        reason: why no test runs the block, from `<!-- not run: reason -->` above it; None if a test runs it.
    """

    code: str
    name: str | None
    reason: str | None


def text(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, language: str = "python") -> list[Block]:
    """The blocks of a page in one language."""
    result = []
    for match in _FENCE.finditer(text(page)):
        if match["language"] == language:
            name = _NAME.match(match["code"])
            result.append(Block(match["code"], name and name[1], match["reason"]))
    return result


def commands(page: str) -> Iterator[list[str]]:
    """The words of each shell command of a page; `$(...)` becomes one word."""
    for block in blocks(page, "bash"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"\$\([^)]*\)", "OUTPUT", line), comments=True)
            if words:
                yield words
