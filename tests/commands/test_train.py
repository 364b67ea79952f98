import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detrex_lite import cli
from tests.engine.tiny import CONFIG_FILE

REPOSITORY = Path(__file__).parents[2]


def run(*arguments):
    return cli.main(["train", "--config-file", str(CONFIG_FILE), *arguments])


def test_a_run_trains_once_resumes_and_is_evaluated(tmp_path, capsys):
    output = f"train.output_dir={tmp_path}"
    run(output, "train.max_iter=4")
    with pytest.raises(SystemExit) as exit_info:
        run(output)
    assert exit_info.value.code == 2
    assert "continue it with --resume" in capsys.readouterr().err
    run("--resume", output)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 6
    run("--eval-only", output, f"train.init_checkpoint={tmp_path}/model_final.pth")
    assert (tmp_path / "log.txt").read_text().count("Results:") == 3


def test_a_misspelt_override_names_the_key(capsys):
    with pytest.raises(SystemExit) as exit_info:
        run("train.max_itr=4")
    assert exit_info.value.code == 2
    assert "max_iter" in capsys.readouterr().err


def test_two_processes_save_a_checkpoint_on_sigterm(tmp_path):
    """As users start the program: the signal reaches only the parent of the training processes."""
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


def start(tmp_path, *arguments):
    """Start the program in a new session, as a shell in a terminal does, with its output in a file."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "stderr.txt").open("w") as stderr:
        return subprocess.Popen(
            [
                *(sys.executable, "tools/train_net.py", "--config-file", str(CONFIG_FILE)),
                *(f"train.output_dir={tmp_path / 'run'}", "train.max_iter=1000000", "train.log_period=10", *arguments),
            ],
            cwd=REPOSITORY,
            env=environment,
            stderr=stderr,
            start_new_session=True,
            # Tests in the background may ignore SIGINT, and child processes inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def wait_until(condition, process, tmp_path):
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, (tmp_path / "stderr.txt").read_text()
        assert time.monotonic() < deadline, (tmp_path / "stderr.txt").read_text()
        time.sleep(0.05)


def imports_torch(process):
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


def has_started_both(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sum("spawn_main" in Path(f"/proc/{child}/cmdline").read_text() for child in children) == 2


SLOW_TO_BUILD = ("--trust", "tests", "model._target_=tests.engine.children.SlowToBuild")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes through Linux's /proc")
@pytest.mark.parametrize(
    ("moment", "arguments"),
    [
        ("imports", ()),
        ("builds", SLOW_TO_BUILD),
        ("starts both", ("--num-processes", "2", *SLOW_TO_BUILD)),
        pytest.param("builds", ("--num-processes", "2", *SLOW_TO_BUILD), marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_during_the_start_ends_with_a_single_line(tmp_path, moment, arguments):
    process = start(tmp_path, *arguments)
    try:
        conditions = {
            "imports": lambda: imports_torch(process),
            "starts both": lambda: has_started_both(process),
            "builds": (tmp_path / "run" / "log.txt").exists,
        }
        wait_until(conditions[moment], process, tmp_path)
        os.killpg(process.pid, signal.SIGINT)  # a terminal signals every process
        assert process.wait(timeout=60) == 130
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (message,) = (tmp_path / "stderr.txt").read_text().splitlines()
    assert message.startswith("Interrupted")


def test_a_run_whose_folder_is_removed_ends_without_a_traceback(tmp_path):
    process = start(tmp_path, "train.checkpointer.period=1000000")  # no file is written while the folder is removed
    try:
        wait_until(lambda: "iteration 10/" in (tmp_path / "stderr.txt").read_text(), process, tmp_path)
        (tmp_path / "run").rename(tmp_path / "elsewhere")  # atomic, unlike removing file by file
        assert process.wait(timeout=60) == 1
    finally:
        process.kill()
    printed = (tmp_path / "stderr.txt").read_text()
    assert "Traceback" not in printed
    last = printed.splitlines()[-1]
    assert last.startswith(f"error: train.output_dir={tmp_path / 'run'} was removed")
    assert "Start it again" in last
    assert not (tmp_path / "run").exists()
