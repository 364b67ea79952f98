import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detrex_lite.engine import default_argument_parser
from detrex_lite.tools import train_net
from tests.engine.tiny import CONFIG_FILE

REPOSITORY = Path(__file__).parents[2]


def run(*arguments):
    args = default_argument_parser().parse_intermixed_args(["--config-file", str(CONFIG_FILE), *arguments])
    train_net.main(args)


def test_train_refuse_resume_and_evaluate(tmp_path, capsys):
    output = f"train.output_dir={tmp_path}"
    run(output, "train.max_iter=4")
    with pytest.raises(SystemExit) as ended:
        run(output)
    assert ended.value.code == 2
    assert "continue it with --resume" in capsys.readouterr().err
    run("--resume", output)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 6
    run("--eval-only", output, f"train.init_checkpoint={tmp_path}/model_final.pth")
    assert (tmp_path / "log.txt").read_text().count("Results:") == 3


def test_a_misspelt_override_names_the_key(capsys):
    with pytest.raises(SystemExit) as ended:
        run("train.max_itr=4")
    assert ended.value.code == 2
    assert "max_iter" in capsys.readouterr().err


def test_two_processes_that_are_asked_to_end_save_first(tmp_path):
    """The program as users start it: the signal comes to the process that started the others."""
    command = [sys.executable, "tools/train_net.py", "--config-file", str(CONFIG_FILE), "--num-gpus", "2"]
    overrides = [f"train.output_dir={tmp_path}", "train.max_iter=1000000", "train.log_period=1000000"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    log = tmp_path / "stderr.txt"
    with log.open("w") as stderr:
        process = subprocess.Popen([*command, *overrides], cwd=REPOSITORY, env=environment, stderr=stderr)
    try:
        deadline = time.monotonic() + 90
        while not (tmp_path / "last_checkpoint").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143, log.read_text()
    finally:
        process.kill()
    stopped = (tmp_path / "last_checkpoint").read_text()
    assert torch.load(tmp_path / stopped, weights_only=True)["iteration"] == int(stopped[6:13])
    assert f"Stopped after iteration {int(stopped[6:13])}" in (tmp_path / "log.txt").read_text()
