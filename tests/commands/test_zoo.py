import json
import shlex

import pytest

from detrex_lite import cli
from detrex_lite.zoo import cached_path, load_zoo

from ..zoo.conftest import small_zoo, templates  # noqa: F401


@pytest.fixture
def run(small_zoo, capsys):  # noqa: F811
    """Return a function that runs the program with the small zoo and returns status, output and errors."""

    def run_program(*arguments):
        status = cli.main(["zoo", "--table", str(small_zoo.table), *map(str, arguments)])
        return status, *capsys.readouterr()

    return run_program


def test_the_list_shows_every_checkpoint_and_its_download_state(run, small_zoo):  # noqa: F811
    status, out, _ = run("list")
    assert status == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
    entries = load_zoo([small_zoo.table])
    assert list(rows) == list(entries)
    assert rows["dino_r50_4scale_12ep"] == ["49.2", "12", "to", "download"]
    assert rows["by_hand"] == ["-", "-", "by", "hand"]
    run("download", "small_dino")
    _, out, _ = run("list", "mine")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
    assert rows["small_dino"] == ["49.2", "2", "downloaded"]
    assert len(rows) == 5


def test_named_checkpoints_are_listed_with_all_details(run):
    _, out, _ = run("list", "small_dino", "by_hand")
    first, second = out.split("\n\n")
    assert "licence      CC0-1.0" in first
    assert "https://example.org/drive" in second


def test_downloads_print_paths_and_continue_after_a_failure(run, small_zoo):  # noqa: F811
    entries = load_zoo([small_zoo.table])
    status, out, errors = run("download", "small_detr", "missing", "small_dino")
    assert status == 1
    assert out.split() == [str(cached_path(entries[name])) for name in ("small_detr", "small_dino")]
    assert "missing" in errors
    assert "HTTP 404" in errors
    assert run("download", "small_detr")[0] == 0


@pytest.mark.parametrize("words", [["list", "yolo"], ["evaluate", "mine", "--weights", "model.pth"]])
def test_wrong_names_are_reported_before_any_download(run, words):
    status, out, errors = run(*words)
    assert (status, out) == (2, "")
    assert errors.startswith("detrex-lite zoo: error: ")


def test_an_evaluation_writes_a_table_and_its_command(run, small_zoo, tmp_path):  # noqa: F811
    output = tmp_path / "results"
    status, out, _ = run("evaluate", "small_deformable_detr", "missing", "--output", output, "--opts", "train.seed=1")
    assert status == 1
    assert f"written to {output / 'results.md'}" in out
    assert "| small_deformable_detr | - | " in (output / "results.md").read_text()
    [failed, evaluated] = json.loads((output / "results.json").read_text())
    assert [failed["name"], evaluated["name"]] == ["missing", "small_deformable_detr"]
    assert "HTTP 404" in failed["error"]
    words = shlex.split(evaluated["command"])
    assert words[:2] == ["detrex-lite", "zoo"]
    parsed = cli.parser_of("zoo").parse(words[2:])
    assert (parsed.table, parsed.names) == ([str(small_zoo.table)], ["small_deformable_detr"])
    assert parsed.opts == ["train.seed=1"]
    assert run("evaluate", "small_deformable_detr", "--output", output, "--opts", "train.seed=1")[0] == 0


def test_functions_of_a_trusted_package_are_called(run, tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text("def unchanged():\n    return lambda image, target: (image, target)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("detrex_lite.config.trusted._added", set())
    words = ["evaluate", "small_detr", "--output", tmp_path / "results"]
    words += ["--opts", "dataloader.test.mapper.augmentation={_target_: my_parts.unchanged}"]
    status, out, _ = run(*words)
    assert status == 1
    assert "--trust my_parts" in out
    status, out, _ = run(*words[:2], "--trust", "my_parts", *words[2:])
    assert status == 0
    assert "evaluate small_detr --trust my_parts --opts" in out
    assert run("evaluate", "small_detr", "--trust", "my-parts")[0] == 2
