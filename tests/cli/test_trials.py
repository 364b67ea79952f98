"""Options of `detrex-lite train` that run a trial: --dry-run, --overfit and --find-lr."""

import pytest

from detrex_lite import cli
from tests.engine.tiny import CONFIG_FILE


def train(tmp_path, *arguments):
    return cli.main(["train", str(CONFIG_FILE), f"train.output_dir={tmp_path / 'run'}", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--resume"], "--resume"),
        (["--overfit", "4", "--num-gpus", "2"], "--num-gpus"),
        (["--find-lr", "--engine", "detectron2"], "--engine detectron2"),
        (["--dry-run", "--find-lr"], "not allowed with"),
        (["--overfit", "0"], "--overfit"),
        (["--overfit-steps", "20"], "needs --overfit"),
    ],
)
def test_contradictory_trial_options_are_reported(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        train(tmp_path, *arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_writes_only_its_folder(tmp_path):
    assert train(tmp_path, "--dry-run") == 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dry_run"]


def test_overfitting_without_a_data_set_is_reported(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        train(tmp_path, "--overfit", "4")
    assert exit_info.value.code == 2
    assert "dataloader.train.dataset" in capsys.readouterr().err
