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
    """Under nohup the tests inherit an ignored SIGHUP, which a run respects."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_the_step_is_finished_and_saved_and_the_handlers_are_put_back(tmp_path, number):
    before = handlers()
    with pytest.raises(SystemExit) as stopped:
        train(tiny_config(tmp_path, "dataloader.train.signal_at=2", f"+dataloader.train.signal={int(number)}"))
    assert stopped.value.code == 128 + number
    saved = torch.load(tmp_path / "model_0000003.pth", weights_only=True)
    assert saved["iteration"] == 3
    assert "Stopped after iteration 3, which is saved; go on with --resume" in (tmp_path / "log.txt").read_text()
    assert handlers() == before


def test_nohup_keeps_a_run_going_when_its_terminal_is_closed(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        results = train(tiny_config(tmp_path, "dataloader.train.signal_at=2", "+dataloader.train.signal=1"))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert results == {"bbox": {"AP": 10.0}}


def test_a_signal_while_a_checkpoint_is_written_spoils_nothing(tmp_path, monkeypatch):
    train(tiny_config(tmp_path / "whole"))
    save = torch.save

    def interrupted(obj, file):
        half = io.BytesIO()
        save(obj, half)
        file.write(half.getvalue()[:1000])
        if obj["iteration"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        file.write(half.getvalue()[1000:])

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted)
        with pytest.raises(SystemExit) as stopped:
            train(tiny_config(tmp_path / "stopped"))
    assert stopped.value.code == 143
    saved = sorted(path.name for path in (tmp_path / "stopped").glob("*.pth"))
    assert saved == ["model_0000002.pth", "model_0000003.pth"]  # the step after is finished and saved too
    for name in saved:
        verify_checkpoint(tmp_path / "stopped" / name)
    train(tiny_config(tmp_path / "stopped"), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_process_that_is_killed_while_it_writes_a_checkpoint_leaves_the_one_before(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    train(tiny_config(tmp_path / "whole"))
    save = torch.save

    def killed(obj, file):
        if obj["iteration"] != 4:
            save(obj, file)
            return
        file.write(b"half of it")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        # Nobody tidies up after a process that is killed.
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        with pytest.raises(Killed):
            train(tiny_config(tmp_path / "killed"))
    left = sorted(path.name for path in (tmp_path / "killed").glob("*model*"))
    assert left[0].startswith(".model_0000004.pth.")
    assert left[0].endswith(".partial")
    assert left[1:] == ["model_0000002.pth"]
    train(tiny_config(tmp_path / "killed"), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_a_second_signal_ends_the_process_at_once(tmp_path, monkeypatch):
    class Ended(BaseException):
        pass

    def end(status):
        raise Ended(status)

    monkeypatch.setattr(signals, "SAME_REQUEST_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", end)
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


def test_the_same_request_may_arrive_twice(tmp_path):
    cfg = tiny_config(tmp_path, "dataloader.train.signal_at=2")
    cfg.dataloader.train._target_ = "tests.engine.processes.test_signals.TwiceSignalled"
    with pytest.raises(SystemExit) as stopped:
        train(cfg)
    assert stopped.value.code == 143
    assert (tmp_path / "model_0000003.pth").exists()


class InterruptedEvaluator(CountingEvaluator):
    """Gets Ctrl-C in the middle of its second batch, but not in the trial before training."""

    def process(self, inputs, outputs):
        super().process(inputs, outputs)
        if self.processed > 2:
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("evaluation went on")


def test_evaluation_is_left_at_once(tmp_path):
    cfg = tiny_config(tmp_path, "train.eval_period=3")
    cfg.dataloader.evaluator._target_ = "tests.engine.processes.test_signals.InterruptedEvaluator"
    with pytest.raises(SystemExit) as stopped:
        train(cfg)
    assert stopped.value.code == 130
    assert torch.load(tmp_path / "model_0000003.pth", weights_only=True)["iteration"] == 3
    results = train(tiny_config(tmp_path, "train.eval_period=3"), resume=True)
    assert results == {"bbox": {"AP": 10.0}}


def test_without_a_step_there_is_nothing_to_save(tmp_path):
    train(tiny_config(tmp_path, "train.max_iter=3"))
    (tmp_path / "metrics.jsonl").unlink()  # so that the final evaluation is made up for
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


def in_worker(worker):
    os.environ["INNER"] = str(worker)


class SignalledDataset(torch.utils.data.Dataset):
    """Each of its samples brings the signals to the worker that loads it, as if a cluster had sent them."""

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
        worker_init_fn=LeaveSignalsToParent(in_worker),
    )


def test_workers_survive_signals_of_others():
    assert [tuple(sample) for sample in make_loader()] == [(0, "0"), (1, "0"), (2, "0")]


def test_workers_end_when_their_parent_asks_them_to():
    loader = make_loader(persistent_workers=True)
    next(iter(loader))
    (process,) = loader._iterator._workers
    process.terminate()
    process.join(timeout=10)
    assert process.exitcode == 0


def test_a_worker_whose_parent_was_killed_while_it_started_ends():
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
    assert os.read(reading, 100) == b""  # the end of the file: nobody can write to it any more
    os.close(reading)
