"""Options of `detrex-lite train` that try something out."""

import pytest

from detrex_lite import cli
from tests.engine.tiny import CONFIG_FILE


def train(tmp_path, *arguments):
    return cli.main(["train", str(CONFIG_FILE), f"train.output_dir={tmp_path / 'run'}", *arguments])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--dry-run", "--resume"], "--resume"),
        (["--overfit", "4", "--num-gpus", "2"], "--num-gpus"),
        (["--find-lr", "--engine", "detectron2"], "--engine detectron2"),
        (["--dry-run", "--find-lr"], "not allowed with"),
        (["--overfit", "0"], "--overfit"),
        (["--overfit-steps", "20"], "needs --overfit"),
    ],
)
def test_what_does_not_go_together(tmp_path, capsys, arguments, named):
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, *arguments)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_a_dry_run_from_the_command_line(tmp_path):
    assert train(tmp_path, "--dry-run") == 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dry_run"]


def test_what_cannot_be_tried_out_is_wrong_use(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        train(tmp_path, "--overfit", "4")
    assert ended.value.code == 2
    assert "dataloader.train.dataset" in capsys.readouterr().err
