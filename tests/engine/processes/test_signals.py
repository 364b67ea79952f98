import io
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from detrex_lite.checkpoint import verify_checkpoint
from detrex_lite.engine import train
from detrex_lite.engine.processes import signals
from detrex_lite.engine.processes.signals import LeaveSignalsToParent

from ..test_resume import assert_same_run
from ..tiny import CountingEvaluator, tiny_config


def handlers():
    return [signal.getsignal(number) for number in signals.SIGNALS]


@pytest.fixture(autouse=True)
def hangup_by_default():
    """Restore the default for SIGHUP: tests under nohup inherit an ignored one, which a run respects."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_the_run_after_saving_the_step(tmp_path, number):
    before = handlers()
    with pytest.raises(SystemExit) as stopped:
        train(tiny_config(tmp_path, "dataloader.train.signal_at=2", f"+dataloader.train.signal={int(number)}"))
    assert stopped.value.code == 128 + number
    saved = torch.load(tmp_path / "model_0000003.pth", weights_only=True)
    assert saved["iteration"] == 3
    assert "Stopped after iteration 3, which is saved" in (tmp_path / "log.txt").read_text()
    assert handlers() == before


def test_an_ignored_sighup_does_not_end_the_run(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        results = train(tiny_config(tmp_path, "dataloader.train.signal_at=2", "+dataloader.train.signal=1"))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert results == {"bbox": {"AP": 10.0}}


def test_a_signal_while_a_checkpoint_is_written_leaves_valid_checkpoints(tmp_path, monkeypatch):
    train(tiny_config(tmp_path / "whole"))
    save = torch.save

    def interrupted_save(obj, file):
        content = io.BytesIO()
        save(obj, content)
        file.write(content.getvalue()[:1000])
        if obj["iteration"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        file.write(content.getvalue()[1000:])

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted_save)
        with pytest.raises(SystemExit) as stopped:
            train(tiny_config(tmp_path / "stopped"))
    assert stopped.value.code == 143
    saved = sorted(path.name for path in (tmp_path / "stopped").glob("*.pth"))
    assert saved == ["model_0000002.pth", "model_0000003.pth"]  # the following step is finished and saved as well
    for name in saved:
        verify_checkpoint(tmp_path / "stopped" / name)
    train(tiny_config(tmp_path / "stopped"), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_process_killed_while_writing_a_checkpoint_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    train(tiny_config(tmp_path / "whole"))
    save = torch.save

    def save_until_killed(obj, file):
        if obj["iteration"] != 4:
            save(obj, file)
            return
        file.write(b"half of it")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_until_killed)
        # A killed process does not remove its temporary files.
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        with pytest.raises(Killed):
            train(tiny_config(tmp_path / "killed"))
    remaining = sorted(path.name for path in (tmp_path / "killed").glob("*model*"))
    assert remaining[0].startswith(".model_0000004.pth.")
    assert remaining[0].endswith(".partial")
    assert remaining[1:] == ["model_0000002.pth"]
    train(tiny_config(tmp_path / "killed"), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_a_second_signal_ends_the_process_at_once(tmp_path, monkeypatch):
    class Ended(BaseException):
        pass

    def raise_instead(status):
        raise Ended(status)

    monkeypatch.setattr(signals, "SAME_REQUEST_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", raise_instead)
    cfg = tiny_config(tmp_path, "dataloader.train.signal_at=2")
    cfg.dataloader.train._target_ = "tests.engine.processes.test_signals.TwiceSignalled"
    with pytest.raises(Ended, match="130"):
        train(cfg)
    assert not (tmp_path / "model_0000003.pth").exists()


def TwiceSignalled(**arguments):
    from ..tiny import TinyLoader

    class Loader(TinyLoader):
        def _batches(self, number):
            for batch in super()._batches(number):
                if batch[0]["image_id"] == self.signal_at * self.batch_size:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    return Loader(**arguments)


def test_a_repeated_signal_within_a_second_counts_once(tmp_path):
    cfg = tiny_config(tmp_path, "dataloader.train.signal_at=2")
    cfg.dataloader.train._target_ = "tests.engine.processes.test_signals.TwiceSignalled"
    with pytest.raises(SystemExit) as stopped:
        train(cfg)
    assert stopped.value.code == 143
    assert (tmp_path / "model_0000003.pth").exists()


class InterruptedEvaluator(CountingEvaluator):
    """Sends Ctrl-C in its second batch; the trial before training has a single batch."""

    def process(self, inputs, outputs):
        super().process(inputs, outputs)
        if self.processed > 2:
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("evaluation continued")


def test_a_signal_ends_evaluation_immediately(tmp_path):
    cfg = tiny_config(tmp_path, "train.eval_period=3")
    cfg.dataloader.evaluator._target_ = "tests.engine.processes.test_signals.InterruptedEvaluator"
    with pytest.raises(SystemExit) as stopped:
        train(cfg)
    assert stopped.value.code == 130
    assert torch.load(tmp_path / "model_0000003.pth", weights_only=True)["iteration"] == 3
    results = train(tiny_config(tmp_path, "train.eval_period=3"), resume=True)
    assert results == {"bbox": {"AP": 10.0}}


def test_a_signal_before_the_first_step_saves_no_checkpoint(tmp_path):
    train(tiny_config(tmp_path, "train.max_iter=3"))
    (tmp_path / "metrics.jsonl").unlink()  # so that the final evaluation is repeated
    cfg = tiny_config(tmp_path, "train.max_iter=3")
    cfg.dataloader.evaluator._target_ = "tests.engine.processes.test_signals.InterruptedEvaluator"
    before = sorted(path.name for path in tmp_path.glob("*.pth"))
    with pytest.raises(SystemExit):
        train(cfg, resume=True)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == before
    assert "nothing new to save" in (tmp_path / "log.txt").read_text()


def test_training_works_outside_of_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(tiny_config(tmp_path))))
    thread.start()
    thread.join()
    assert results == [{"bbox": {"AP": 10.0}}]


def init_worker(worker):
    os.environ["INNER"] = str(worker)


class SignalledDataset(torch.utils.data.Dataset):
    """Sends all signals to the worker that loads a sample, as a cluster would."""

    def __getitem__(self, index):
        for number in signals.SIGNALS:
            subprocess.run(["kill", f"-{int(number)}", str(os.getpid())], check=True)
        return index, os.environ["INNER"]

    def __len__(self):
        return 3


def make_loader(persistent_workers=False):
    return DataLoader(
        SignalledDataset(),
        num_workers=1,
        batch_size=None,
        persistent_workers=persistent_workers,
        worker_init_fn=LeaveSignalsToParent(init_worker),
    )


def test_workers_ignore_signals_from_outside():
    assert [tuple(sample) for sample in make_loader()] == [(0, "0"), (1, "0"), (2, "0")]


def test_workers_end_when_their_parent_terminates_them():
    loader = make_loader(persistent_workers=True)
    next(iter(loader))
    (process,) = loader._iterator._workers
    process.terminate()
    process.join(timeout=10)
    assert process.exitcode == 0


def test_a_worker_ends_if_its_parent_is_killed_during_the_start():
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        start = LeaveSignalsToParent()
        killed = os.getpid()
        if os.fork() == 0:
            try:
                while os.getppid() == killed:
                    time.sleep(0.01)
                start(0)
                os.write(writing, b"still there")
            finally:
                os._exit(0)
        os._exit(0)
    os.close(writing)
    os.waitpid(parent, 0)
    assert os.read(reading, 100) == b""  # end of file: no process can write to the pipe any more
    os.close(reading)
