import json

import pytest

from detrex_lite.tools.benchmark.errors import BenchmarkError
from detrex_lite.tools.benchmark.history import append_to_history

MACHINE = {"cpu": "A", "cores": 2, "threads": 1, "device": "cpu", "torch": "2.4"}


def report(median, machine=MACHINE, **settings):
    return {"machine": machine, "settings": settings, "rows": [{"part": "image", "median": median, "seconds": []}]}


def test_a_run_is_compared_with_the_previous_run_on_the_same_machine(tmp_path):
    path = tmp_path / "history.jsonl"
    assert "the first run with these settings on this machine" in append_to_history(path, "loader", report(0.2))
    for other_report in (report(9.0, images=3), report(9.0, {**MACHINE, "cores": 4})):
        assert "the first run" in append_to_history(path, "loader", other_report)
    assert "the first run" in append_to_history(path, "matcher", report(9.0))
    newer_torch = report(0.1, {**MACHINE, "torch": "2.9"})
    assert append_to_history(path, "loader", newer_torch).endswith("): image 0.50x.")
    assert append_to_history(path, "loader", report(0.3)).endswith("): image 3.00x.")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["medians"]["image"] for line in lines] == [0.2, 9.0, 9.0, 9.0, 0.1, 0.3]
    assert set(lines[0]) == {"time", "command", "settings", "machine", "medians"}


def test_medians_of_models_and_operators_are_named_by_their_settings(tmp_path):
    path = tmp_path / "history.jsonl"
    row = {"config": "a.py", "side": "detrex_lite", "mode": "train", "precision": "float32", "variant": "eager"}
    rows = [{**row, "median": 1.0}, {"backend": "triton", "pass": "forward", "median": 2.0}]
    append_to_history(path, "model", {**report(0.0), "rows": rows})
    assert json.loads(path.read_text())["medians"] == {
        "a.py detrex_lite train float32 eager": 1.0,
        "triton forward": 2.0,
    }


@pytest.mark.parametrize("line", ["not JSON", "3", '{"iteration": 1}'])
def test_a_file_without_measurements_raises_and_is_not_changed(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(BenchmarkError, match="metrics.jsonl, line 1 .*no measurement"):
        append_to_history(path, "loader", report(0.1))
    assert path.read_text() == line + "\n"
