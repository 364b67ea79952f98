"""What READMEs of projects say about the code is so."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import detrex_lite.projects

READMES = sorted(Path(next(iter(detrex_lite.projects.__path__))).glob("*/README.md"))
SIZE = re.compile(r"(\d+) lines of code without imports, docstrings and comments")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def lines_of(node):
    return set(range(node.lineno, node.end_lineno + 1))


def lines_of_code(source):
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            lines -= lines_of(node)
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines -= lines_of(node.body[0])
    return len(lines)


SOURCE = """
import torch


def double(x):
    'Text.'
    # Why.
    return [
        x,

        x,
    ]
"""


def test_lines_are_counted():
    assert lines_of_code(SOURCE) == 5


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_the_number_of_lines_is_that_of_the_modeling_code(readme):
    stated = SIZE.search(readme.read_text())
    if stated is None:
        pytest.skip("states no number of lines")
    modules = [path for path in readme.parent.glob("modeling/*.py") if path.name != "__init__.py"]
    assert int(stated[1]) == sum(lines_of_code(path.read_text()) for path in modules)
