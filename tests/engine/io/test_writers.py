import builtins
import csv
import json
import math
import shutil
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from detrex_lite.engine.io.writers import CsvWriter, JsonLinesWriter, TensorBoardWriter, open_writers, truncate_metrics
from detrex_lite.metrics_file import read_metrics


def write_all(writers, iteration, scalars):
    for writer in writers:
        writer.write(iteration, scalars)
        writer.close()


def test_non_finite_values_are_written_as_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLinesWriter(path)
    writer.write(3, {"loss_class": 0.5, "bbox/AP-Blutkörperchen": math.nan, "x": math.inf})
    line = {"iteration": 3, "loss_class": 0.5, "bbox/AP-Blutkörperchen": None, "x": None}
    assert json.loads(path.read_text(encoding="utf-8")) == line  # on disk before it is closed
    writer.close()


def test_truncating_drops_later_and_broken_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2, "bbox/AP": null}\n{"iteration": 3}\nnull\n{"iteration": 2,')
    truncate_metrics(path, 2)
    assert read_metrics(path) == [{"iteration": 1}, {"iteration": 2, "bbox/AP": None}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncating_ignores_a_missing_file(tmp_path):
    truncate_metrics(tmp_path / "metrics.jsonl", 2)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_tensorboard_receives_finite_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writers = open_writers(tmp_path, start_iteration=0, config={}, wandb_params=None)
    write_all(writers, 7, {"loss_class": 0.5, "bbox/APs": math.nan})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["loss_class"]
    assert [(event.step, event.value) for event in events.Scalars("loss_class")] == [(7, 0.5)]


def test_errors_in_the_thread_of_tensorboard_are_raised_in_the_run(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    writer = TensorBoardWriter(tmp_path / "run", 0)
    shutil.rmtree(tmp_path / "run")

    def write_many():
        for iteration in range(1000):
            writer.write(iteration, {"loss": 1.0})
            time.sleep(0.01)

    with pytest.raises(OSError, match="events.out"):
        write_many()
    assert printed == []

    unrelated_thread = threading.Thread(target=lambda: 1 / 0)
    unrelated_thread.start()
    unrelated_thread.join()
    assert [type(hook_arguments.exc_value) for hook_arguments in printed] == [ZeroDivisionError]
    with pytest.raises(OSError, match="events.out"):
        writer.close()
    assert threading.excepthook == printed.append


def test_without_tensorboard_metrics_are_still_written(tmp_path, monkeypatch, caplog):
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


def test_wandb_receives_the_scalars_and_resumes_its_run(tmp_path, monkeypatch):
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
    init_arguments = {"dir": str(tmp_path), "config": {"a": 1}, "resume": "allow", "project": "detrex_lite"}
    assert calls == [
        init_arguments,
        (2, {"x": 1.0}),
        "finish",
        {**init_arguments, "id": "abc"},
        (2, {"x": 1.0}),
        "finish",
    ]


def read_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_has_a_row_per_record_and_a_column_per_name(tmp_path):
    writers = open_writers(tmp_path, start_iteration=0, config={}, table=True)
    for writer in writers:
        writer.write(5, {"total_loss": 2.5, "lr": 0.1})
        writer.write(5, {"bbox/AP": 12.0, 'bbox/AP-a, "b"': math.nan})
        writer.write(10, {"total_loss": math.inf, "lr": 0.1})
        writer.close()
    empty = {"total_loss": "", "lr": "", "bbox/AP": "", 'bbox/AP-a, "b"': ""}
    assert read_table(tmp_path / "metrics.csv") == [
        {**empty, "iteration": "5", "total_loss": "2.5", "lr": "0.1"},
        {**empty, "iteration": "5", "bbox/AP": "12.0"},
        {**empty, "iteration": "10", "lr": "0.1"},
    ]


def test_the_csv_of_a_resumed_run_drops_later_rows_and_is_extended(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("iteration,x,y\n1,2.0,3.0\n2,4.0,5.0\n3,6")
    CsvWriter(path, start_iteration=1).write(2, {"x": 7.0})
    assert read_table(path) == [{"iteration": "1", "x": "2.0", "y": "3.0"}, {"iteration": "2", "x": "7.0", "y": ""}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_mlflow_receives_the_scalars_and_resumes_its_run(tmp_path, monkeypatch):
    calls = []

    class Mlflow:
        def __getattr__(self, name):
            def call(*args, **kwargs):
                calls.append((name, args, kwargs))
                return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

            return call

    monkeypatch.setitem(sys.modules, "mlflow", Mlflow())
    settings = {"tracking_uri": "sqlite:///runs.db", "experiment": "detrex_lite", "params": {"run_name": "first"}}
    for _ in range(2):
        writers = open_writers(tmp_path, start_iteration=0, config={"a": 1}, mlflow_settings=settings)
        write_all(writers[-1:], 2, {"x": 1.0, "bbox/AP-<b>": 3.0, "bbox/APs": math.nan})

    def run(**arguments):
        return [
            ("set_tracking_uri", ("sqlite:///runs.db",), {}),
            ("set_experiment", ("detrex_lite",), {}),
            ("start_run", (), arguments),
            ("log_dict", ({"a": 1}, "config.yaml"), {}),
            ("log_metrics", ({"x": 1.0, "bbox/AP-_b_": 3.0},), {"step": 2}),
            ("end_run", (), {}),
        ]

    assert calls == run(run_name="first") + run(run_id="abc", run_name="first")


def test_mlflow_without_settings_uses_its_environment(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(info=SimpleNamespace(run_id="abc"))
    names = ("log_dict", "log_metrics", "end_run")
    other_functions = {name: lambda *args, **kwargs: None for name in names}
    start_run = lambda **kwargs: calls.append(kwargs) or run  # noqa: E731
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(start_run=start_run, **other_functions))
    write_all(open_writers(tmp_path, start_iteration=0, config={}, mlflow_settings={}), 1, {"x": 1.0})
    assert calls == [{}]
