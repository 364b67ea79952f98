import fcntl
import io
import os
import struct
import sys
import termios
import time
from types import SimpleNamespace

import pytest
import torch

from detrex_lite import distributed
from detrex_lite.engine import Trainer, train
from detrex_lite.engine.loop.progress import ProgressLog, _main_losses, _shows_a_bar
from detrex_lite.engine.loop.running_means import RunningMeans
from detrex_lite.metrics_file import read_metrics

from ..tiny import Recorder, TinyDetector, TinyLoader, tiny_config


class RecordingWriter:
    def __init__(self):
        self.lines = []

    def write(self, iteration, scalars):
        self.lines.append((iteration, scalars))


def run(period, max_iter, **arguments):
    model = TinyDetector()
    writer, recorder = RecordingWriter(), Recorder()
    state = SimpleNamespace(losses=RunningMeans(), scalars=RunningMeans())
    log = ProgressLog(period=period, writers=[writer], state=state)
    trainer = Trainer(
        model=model,
        optimizer=torch.optim.SGD(
            [{"params": model.backbone.parameters(), "lr": 0.1}, {"params": model.head.parameters()}], lr=0.2
        ),
        data_loader=TinyLoader(),
        max_iter=max_iter,
        hooks=[recorder, log],
        **arguments,
    )
    trainer.train()
    return writer.lines, recorder.losses


def test_a_line_has_the_means_since_the_previous_line():
    lines, losses = run(period=3, max_iter=7)
    assert [iteration for iteration, _ in lines] == [3, 6, 7]
    for (_, scalars), part in zip(lines, (losses[:3], losses[3:6], losses[6:]), strict=True):
        assert scalars["total_loss"] == pytest.approx(sum(part) / len(part), rel=1e-6)
        assert scalars["loss_class"] + scalars["loss_bbox"] == pytest.approx(scalars["total_loss"])
        assert scalars["lr"] == 0.2
        parts = [scalars[f"{name}_time"] for name in ("data", "forward", "backward", "optimizer")]
        assert scalars["time"] >= sum(parts)
        assert min(parts) > 0
        assert scalars["images_per_second"] == pytest.approx(2 / scalars["time"])
        assert "grad_norm" not in scalars


def test_the_gradient_norm_is_logged_with_clipping():
    lines, _ = run(period=1, max_iter=1, clip_grad={"max_norm": 1.0})
    assert lines[0][1]["grad_norm"] > 0


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_progress_bar_and_the_file_has_lines(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(tiny_config(tmp_path))
    shown = terminal.getvalue()
    assert "6/6" in shown
    assert "images/s" in shown
    assert "eta 0:00:0" in shown
    assert "iteration 6/6" not in shown
    assert "iteration 6/6" in (tmp_path / "log.txt").read_text()


def test_a_terminal_without_a_width_has_no_progress_bar(tmp_path, monkeypatch):
    controller, terminal = os.openpty()
    with os.fdopen(controller, "rb"), os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert stderr.isatty()
        assert not _shows_a_bar()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        assert _shows_a_bar()


def test_only_the_main_process_shows_a_progress_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    log = ProgressLog(period=1, writers=[], state=None)
    log.before_train(SimpleNamespace(iteration=0, max_iter=5))
    assert log._bar is None


def test_the_remaining_time_includes_evaluations(monkeypatch):
    clock = iter([0.0, 30.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    log = ProgressLog(period=1, writers=[], state=None)
    log._all_steps, log._all_seconds = 10, 20.0  # of 30 seconds; the other 10 were spent outside of steps
    trainer = SimpleNamespace(iteration=10, max_iter=40)
    assert log._remaining(trainer, 2.0).total_seconds() == 30 * (2 + 1)


def test_without_a_terminal_lines_are_logged(tmp_path):
    train(tiny_config(tmp_path, "train.log_period=2"))
    lines = [
        line for line in (tmp_path / "log.txt").read_text().splitlines() if " iteration " in line and "eta" in line
    ]
    assert len(lines) == 3
    assert all(part in lines[0] for part in ("iteration 2/6", "eta 0:00:0", "loss_bbox", "lr ", "images/s", "data "))
    assert [r["iteration"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [2, 4, 6, 6]


def test_lines_leave_out_the_losses_of_auxiliary_layers():
    names = ["total_loss", "loss_class", "loss_class_0", "loss_class_dn", "loss_giou", "loss_enc_only", "lr"]
    assert _main_losses(dict.fromkeys(names, 1.0)) == ["total_loss", "loss_class", "loss_giou", "loss_enc_only"]
