import builtins
import json
import math
import sys
from types import SimpleNamespace

from detrex_lite.engine.writers import JsonLinesWriter, open_writers, read_metrics, truncate_metrics


def write_all(writers, iteration, scalars):
    for writer in writers:
        writer.write(iteration, scalars)
        writer.close()


def test_lines_are_strict_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLinesWriter(path)
    writer.write(3, {"loss_class": 0.5, "bbox/AP-Blutkörperchen": math.nan, "x": math.inf})
    line = {"iteration": 3, "loss_class": 0.5, "bbox/AP-Blutkörperchen": None, "x": None}
    assert json.loads(path.read_text(encoding="utf-8")) == line  # on disk before it is closed
    writer.close()


def test_later_lines_are_dropped_and_broken_ones(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2, "bbox/AP": null}\n{"iteration": 3}\nnull\n{"iteration": 2,')
    truncate_metrics(path, 2)
    assert read_metrics(path) == [{"iteration": 1}, {"iteration": 2, "bbox/AP": None}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_there_may_be_no_metrics_yet(tmp_path):
    truncate_metrics(tmp_path / "metrics.jsonl", 2)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_tensorboard_gets_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writers = open_writers(tmp_path, start_iteration=0, config={}, wandb_params=None)
    write_all(writers, 7, {"loss_class": 0.5, "bbox/APs": math.nan})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["loss_class"]
    assert [(event.step, event.value) for event in events.Scalars("loss_class")] == [(7, 0.5)]


def test_without_tensorboard_the_rest_is_written(tmp_path, monkeypatch, caplog):
    real_import = builtins.__import__

    def no_tensorboard(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_tensorboard)
    with caplog.at_level("INFO"):
        writers = open_writers(tmp_path, start_iteration=0, config={}, wandb_params=None)
    write_all(writers, 1, {"x": 1.0})
    assert "pip install tensorboard" in caplog.text
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"iteration": 1, "x": 1.0}]


def test_wandb_gets_the_numbers_and_goes_on_with_its_run(tmp_path, monkeypatch):
    calls = []

    class Run:
        id = "abc"

        def log(self, scalars, step):
            calls.append((step, scalars))

        def finish(self):
            calls.append("finish")

    def init(**arguments):
        calls.append(arguments)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for _ in range(2):
        writers = open_writers(tmp_path, start_iteration=0, config={"a": 1}, wandb_params={"project": "detrex_lite"})
        write_all(writers[-1:], 2, {"x": 1.0})
    begun = {"dir": str(tmp_path), "config": {"a": 1}, "resume": "allow", "project": "detrex_lite"}
    assert calls == [begun, (2, {"x": 1.0}), "finish", {**begun, "id": "abc"}, (2, {"x": 1.0}), "finish"]
