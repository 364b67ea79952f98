"""Notebooks are stored without outputs, and run from the first cell to the last."""

import os
import re

import pytest

from .pages import ROOT, links

NOTEBOOKS = links.notebooks()
SIZES = re.compile(r"^(?P<first>EPOCHS|STEPS), NUM_TRAIN, NUM_VAL = .*$", re.MULTILINE)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebooks_have_no_outputs_and_their_code_compiles(notebook):
    for cell in links.cells(notebook):
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            compile("".join(cell["source"]), notebook, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebooks_run(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="running notebooks needs the extra `dev`")
    pytest.importorskip("ipykernel", reason="running notebooks needs the extra `dev`")
    nbformat = pytest.importorskip("nbformat")
    content = nbformat.read(ROOT / notebook, as_version=4)
    shortened = [SIZES.subn(r"\g<first>, NUM_TRAIN, NUM_VAL = 1, 16, 4", cell.source) for cell in content.cells]
    assert sum(count for _, count in shortened) == 1
    for cell, (source, _) in zip(content.cells, shortened, strict=True):
        cell.source = source
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(content, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
