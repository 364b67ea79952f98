import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detrex_lite.config import ConfigError
from detrex_lite.engine import Hook, evaluate, train
from detrex_lite.engine.io.folder import LOCK_FILE, LostFolderError, owned_output_dir
from detrex_lite.metrics_file import read_metrics

from ..tiny import CountingEvaluator, tiny_config

ROOT = Path(__file__).parents[3]
LONG_RUN = """
import sys
from detrex_lite.engine import train
from tests.engine.tiny import tiny_config
train(tiny_config(sys.argv[1], "train.max_iter=1000000", "train.checkpointer.period=20"))
"""


@pytest.fixture
def running_process(tmp_path):
    """Start a run in another process, wait for its first checkpoint, and kill it after the test."""
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", LONG_RUN, str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "last_checkpoint").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process, folder
    process.kill()
    process.wait()


def test_a_folder_is_locked_by_its_run_until_the_process_ends(running_process):
    process, folder = running_process
    inode = (folder / "metrics.jsonl").stat().st_ino
    for resume in (False, True):
        with pytest.raises(ConfigError, match=f"process {process.pid} on {socket.gethostname()}"):
            train(tiny_config(folder), resume=resume)
    assert (folder / "metrics.jsonl").stat().st_ino == inode
    process.send_signal(signal.SIGKILL)
    process.wait()
    iteration = int((folder / "last_checkpoint").read_text()[6:-4])
    train(tiny_config(folder, f"train.max_iter={iteration + 2}"), resume=True)
    assert read_metrics(folder / "metrics.jsonl")[-1]["iteration"] == iteration + 2


def test_forked_processes_do_not_hold_the_lock(tmp_path):
    with owned_output_dir(tmp_path):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, b".")
            time.sleep(60)
            os._exit(0)
        assert os.read(reading, 1) == b"."
    try:
        with owned_output_dir(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_failed_run_releases_the_folder(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        train(tiny_config(tmp_path, "dataloader.train.fail_at=3"))
    assert (tmp_path / LOCK_FILE).read_text() == ""
    train(tiny_config(tmp_path), resume=True)


def test_a_file_system_without_locks_is_logged(tmp_path, monkeypatch, caplog):
    def unsupported(handle, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with owned_output_dir(tmp_path):
        pass
    assert "has no locks" in caplog.text


@pytest.mark.parametrize("program", [train, evaluate])
def test_an_output_folder_that_cannot_be_created_is_named(tmp_path, program):
    (tmp_path / "file").touch()
    weights = f"train.init_checkpoint={tmp_path / 'file'}"
    for folder, reason in (("file", "is a file, not a folder"), ("file/x", "cannot be used: Not a directory")):
        with pytest.raises(ConfigError, match=rf"train\.output_dir=.*{folder} {reason}"):
            program(tiny_config(tmp_path / folder, weights))
    with pytest.raises(ConfigError, match=r"train\.output_dir=/proc/nope cannot be used"):
        program(tiny_config("/proc/nope", weights))


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match="cannot be used"):
        train(tiny_config(tmp_path))
    assert (tmp_path / "victim").read_text() == "precious"


def test_paths_expand_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    train(tiny_config("~/run", "train.max_iter=1"))
    assert (tmp_path / "run" / "model_final.pth").is_file()
    evaluate(tiny_config("~/evaluation", "train.init_checkpoint=~/run/model_final.pth"))
    train(tiny_config("~/tuned", "train.max_iter=1", "train.init_checkpoint=~/run/model_final.pth"))
    assert not (ROOT / "~").exists()


@pytest.mark.parametrize("folder", ["''", "' '", "null", "7"])
def test_an_output_folder_without_a_name_raises(folder):
    with pytest.raises(ConfigError, match=r"train\.output_dir=.* must be"):
        train(tiny_config(folder))


class AfterThirdStep(Hook):
    def __init__(self, act):
        self.act = act

    def after_step(self, trainer):
        if trainer.iteration == 3:
            self.act()


def test_a_run_whose_folder_is_removed_ends_and_does_not_create_the_folder_again(tmp_path):
    folder = tmp_path / "run"
    removal = AfterThirdStep(lambda: shutil.rmtree(folder))
    with pytest.raises(LostFolderError, match=f"train.output_dir={folder} was removed"):
        train(tiny_config(folder), hooks=[removal])
    assert not folder.exists()


def test_a_run_writes_nothing_into_a_folder_that_replaced_its_own(tmp_path):
    folder = tmp_path / "run"

    def replace_folder():
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        (folder / LOCK_FILE).touch()

    with pytest.raises(LostFolderError, match="removed or replaced"):
        train(tiny_config(folder), hooks=[AfterThirdStep(replace_folder)])
    assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    assert (tmp_path / "moved" / "model_0000002.pth").exists()


class RemovingEvaluator(CountingEvaluator):
    """Removes the folder in the evaluation after training, not in the trial before it."""

    def __init__(self, *, folder, **arguments):
        super().__init__(**arguments)
        self.folder = Path(folder)

    def evaluate(self):
        if (self.folder / "model_final.pth").exists():
            shutil.rmtree(self.folder)
        return super().evaluate()


def test_removing_the_folder_in_the_last_evaluation_raises(tmp_path):
    folder = tmp_path / "run"
    cfg = tiny_config(folder, f"+dataloader.evaluator.folder={folder}")
    cfg.dataloader.evaluator._target_ = "tests.engine.io.test_folder.RemovingEvaluator"
    with pytest.raises(LostFolderError):
        train(cfg)
