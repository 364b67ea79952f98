import json
import re
from pathlib import Path

import pytest

import detrex_lite
from detrex_lite.cli import main
from detrex_lite.tools.benchmark.analysis import analyze_config
from detrex_lite.tools.benchmark.errors import BenchmarkError
from detrex_lite.tools.benchmark.overview import (
    ModelSize,
    code_lines,
    picture_of,
    read_projects,
    readme_of,
    write_overview,
)

SHIPPED = detrex_lite.SHIPPED_IN / "projects"
CONFIG = '''"""A model."""

from detrex_lite.config import get_config

model = get_config("projects/detr/configs/models/detr_small.py").model
'''
DERIVED = """# A comment, which does not count as a line of code.
from .plain import model

model.num_queries = 7
"""
CARD = """CONFIG = "models/derived.py"
IMAGE_SIZE = (64, 96)
PUBLISHED_AP = (12.5, "https://example.org")
COMPARED_WITH = ("other code",)
"""


@pytest.fixture
def folder(tmp_path):
    """Write a projects folder with a single project."""
    models = tmp_path / "my_detr/configs/models"
    models.mkdir(parents=True)
    (models / "plain.py").write_text(CONFIG)
    (models / "derived.py").write_text(DERIVED)
    (tmp_path / "my_detr/modeling").mkdir()
    (tmp_path / "my_detr/modeling/parts.py").write_text('"""Parts."""\n\nA = (\n    1,\n)\n')
    (tmp_path / "my_detr/README.md").write_text("# My DETR\n\n[A paper](https://example.org/paper), of nobody.\n")
    (tmp_path / "my_detr/card.py").write_text(CARD)
    return tmp_path


def test_code_lines_excludes_comments_and_docstrings():
    source = (
        '"""Doc.\n\nMore."""\n\nimport os  # why\n\n# what\ndef f(\n    a,\n):\n    """Doc."""\n    return """a\nb"""\n'
    )
    assert code_lines(source) == 1 + 3 + 2


def test_the_overview_describes_a_project(folder):
    write_overview(folder)
    (row,) = re.findall(r"^\| \[My.+$", (folder / "README.md").read_text(), re.MULTILINE)
    whole = analyze_config(str(folder / "my_detr/configs/models/derived.py"), height=64, width=96).whole
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "[My DETR](my_detr)"
    assert cells[1] == "[A paper](https://example.org/paper)"
    assert "`SoftmaxPostprocessor`" in cells[2]
    assert cells[3] == str(3 + 2 + 2)  # parts, plain, derived
    assert cells[4] == "[derived](my_detr/configs/models/derived.py)"
    assert cells[5] == f"{whole.parameters / 1e6:.1f}"
    assert cells[6] == f"{whole.flops / 2e9:.1f} (64x96)"
    assert cells[7:] == ["[12.5](https://example.org)", "other code"]
    picture = (folder / "blocks.svg").read_text()
    assert ">My DETR<" in picture
    (project,) = read_projects(folder)
    assert picture.count("<circle") == len(project.blocks)


def test_a_project_without_a_comparison_has_a_dash(folder):
    (folder / "my_detr/card.py").write_text(CARD.replace('("other code",)', "()"))
    (row,) = rows(readme_of(read_projects(folder), [ModelSize(1, 1)]))
    assert row.endswith("| - |")


def test_the_command_writes_the_overview(folder, monkeypatch, capsys):
    monkeypatch.setattr(detrex_lite, "SHIPPED_IN", folder.parent)
    monkeypatch.setattr("detrex_lite.tools.benchmark.overview.read_projects", lambda where: ())
    (folder.parent / "projects").mkdir()
    assert main(["benchmark", "projects", "--json", str(folder / "facts.json")]) == 0
    assert "0 projects" in capsys.readouterr().out
    assert json.loads((folder / "facts.json").read_text()) == {"projects": []}


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "has no card.py"),
        (CARD + "SIZE = 3\n", "unknown key SIZE"),
        (CARD.replace("CONFIG", "_CONFIG"), "must define CONFIG"),
        (CARD.replace("COMPARED", "_COMPARED"), "must define .*COMPARED_WITH"),
        (CARD + 'CHECKPOINT = "dino_r50_4scale_12ep"\n', "either CHECKPOINT or PUBLISHED_AP"),
        (CARD.replace("PUBLISHED_AP", "_AP"), "either CHECKPOINT or PUBLISHED_AP"),
    ],
)
def test_faults_of_a_card_are_named(folder, card, message):
    path = folder / "my_detr/card.py"
    path.unlink() if card is None else path.write_text(card)
    with pytest.raises(BenchmarkError, match=message):
        read_projects(folder)


def test_a_readme_without_a_paper_raises(folder):
    (folder / "my_detr/README.md").write_text("# My DETR\n\nwithout a paper\n")
    with pytest.raises(BenchmarkError, match="link to the paper"):
        read_projects(folder)


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| [")]


def test_the_shipped_overview_is_up_to_date():
    """Sizes of models are tested by the slow test, which builds the models."""
    projects = read_projects(SHIPPED)
    text = (SHIPPED / "README.md").read_text()
    sizes = [re.search(r"\| ([\d.]+) \| ([\d.]+) \(\d+x\d+\) \|", row) for row in rows(text)]
    model_sizes = [ModelSize(round(float(match[1]) * 1e6), round(float(match[2]) * 1e9)) for match in sizes]
    assert len(model_sizes) == len(projects), "regenerate: python -m detrex_lite.tools.benchmark projects"
    assert readme_of(projects, model_sizes) == text, "regenerate: python -m detrex_lite.tools.benchmark projects"
    assert picture_of(projects) == (SHIPPED / "blocks.svg").read_text()


@pytest.mark.slow
def test_the_shipped_sizes_equal_those_of_the_models(tmp_path):
    text = (SHIPPED / "README.md").read_text()
    for project, row in zip(read_projects(SHIPPED), rows(text), strict=True):
        file = str(SHIPPED / project.name / "configs" / project.config)
        whole = analyze_config(file, height=project.height, width=project.width).whole
        assert f"| {whole.parameters / 1e6:.1f} | {whole.flops / 2e9:.1f} (" in row, project.name


def test_links_of_the_shipped_overview_exist():
    text = (SHIPPED / "README.md").read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert [link for link in links if not (Path(SHIPPED) / link).exists()] == []
