import json

import pytest

from detrex_lite.cli import main
from tests.engine.tiny import CONFIG_FILE

from .configs import TINY

SMALL = [
    "--height",
    "8",
    "--width",
    "8",
    "--train-height",
    "8",
    "--train-width",
    "8",
    "--repeats",
    "1",
    "--warmup",
    "1",
]


def test_models_are_measured_with_overrides_between_options(tmp_path, capsys):
    file = tmp_path / "times.json"
    arguments = ["model", "--device", "cpu", TINY, *SMALL, "model.num_classes=5", "--mode", "inference"]
    assert main(["benchmark", *arguments, "--json", str(file)]) == 0
    assert "median ms" in capsys.readouterr().out
    (row,) = json.loads(file.read_text())["rows"]
    assert row["config"] == TINY
    assert row["flops"] == 2 * (3 * 8 + 8 * 9)


def test_an_operator_is_measured(tmp_path, capsys):
    file = tmp_path / "times.json"
    sizes = ["--shapes", "4x6,2x3", "--heads", "2", "--channels", "8", "--points", "2", "--queries", "5"]
    options = ["--backends", "embedding_bag", "--repeats", "1", "--device", "cpu", "--json", str(file)]
    assert main(["benchmark", "op", "deformable_attention", *sizes, *options]) == 0
    assert "5 queries, 2 heads x 8 channels, 2 points, float32, levels 4x6 2x3" in capsys.readouterr().out
    stored = json.loads(file.read_text())
    assert {row["backend"] for row in stored["rows"]} == {"grid_sample", "embedding_bag"}
    assert stored["settings"]["queries"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "nowhere.py"], "there is no config file 'nowhere.py'"),
        (["model", TINY, "--precision", "float16"], "there is no precision 'float16'"),
        (["model", TINY, "--mode", "predict"], "there is no mode 'predict'"),
        (["model", TINY, "--against", "mmdet"], "there is no implementation to compare with 'mmdet'"),
        (["model", "model.num_classes=5"], "no config is given"),
        (["model", TINY, "--json", "nowhere/times.json"], "there is no folder"),
        (["op", "deformable_attention", "--backends", "cuda"], "there is no backend 'cuda'"),
        (["op", "deformable_attention", "--queries", "many"], "queries must be a number or 'encoder', got 'many'"),
        (["op", "deformable_attention", "--shapes", "10"], "HEIGHTxWIDTH"),
        (["op", "deformable_attention", "--device", "gpu"], "device must be"),
    ],
)
def test_errors_are_printed_without_a_traceback(arguments, message, capsys):
    assert main(["benchmark", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_unknown_commands_and_operators_are_rejected(capsys):
    for arguments in (["trian"], ["op", "attention"]):
        with pytest.raises(SystemExit) as exit_info:
            main(["benchmark", *arguments])
        assert exit_info.value.code == 2
        assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["loader", "--images", "1"], "images/s per core"),
        (["matcher", "--queries", "5", "--device", "cpu"], "Matching 7 sets of 5 queries"),
        (
            ["masks", "--queries", "5", "--objects", "2", "--cells", "8", "--points", "20", "--device", "cpu"],
            "peak memory, losses at points",
        ),
        (["eval", "--images", "2"], "from its end to the table"),
        (["train", str(CONFIG_FILE), "dataloader.train.batch_size=3", "--device", "cpu"], "3 images each"),
    ],
)
def test_components_are_measured_and_appended_to_the_history(arguments, words, tmp_path, capsys):
    file, history = tmp_path / "times.json", tmp_path / "history.jsonl"
    options = ["--repeats", "2", "--json", str(file), "--history", str(history)]
    for expected in ("the first run", "by those of the last run"):
        assert main(["benchmark", *arguments, *options]) == 0
        out = capsys.readouterr().out
        assert words in out
        assert expected in out
    assert all(row["median"] > 0 for row in json.loads(file.read_text())["rows"])
    assert len(history.read_text().splitlines()) == 2


def test_measurements_of_an_operator_are_appended_to_the_history(tmp_path, capsys):
    history = tmp_path / "history.jsonl"
    sizes = ["--shapes", "4x6,2x3", "--heads", "2", "--channels", "8", "--points", "2", "--queries", "5"]
    options = ["--backends", "embedding_bag", "--repeats", "1", "--device", "cpu", "--history", str(history)]
    for _ in range(2):
        assert main(["benchmark", "op", "deformable_attention", *sizes, *options]) == 0
    assert "embedding_bag forward" in capsys.readouterr().out
    assert len(history.read_text().splitlines()) == 2
