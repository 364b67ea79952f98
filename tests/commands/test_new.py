import pytest

from detrex_lite import cli


def test_files_and_commands_of_a_new_project_are_printed(tmp_path, capsys):
    assert cli.main(["new", "my_detr", "--from", "detr", "--into", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for file in tmp_path.rglob("*.py"):
        assert f"  {file.relative_to(tmp_path)}\n" in printed
    assert "detrex-lite train my_detr/configs/my_detr_small_shapes.py\n" in printed
    assert "--trust my_detr" in printed


def test_an_unknown_source_is_reported_with_status_2(tmp_path, capsys):
    assert cli.main(["new", "my_detr", "--from", "dion", "--into", str(tmp_path)]) == 2
    assert "did you mean 'dino'?" in capsys.readouterr().err


def test_the_source_must_be_given(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["new", "my_detr"])
    assert "--from" in capsys.readouterr().err
