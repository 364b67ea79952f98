import json

import pytest

from detrex_lite.metrics_file import read_metrics


def test_null_is_read_as_none_and_empty_lines_are_skipped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 20, "lr": 1.0}\n\n{"iteration": 40, "bbox/AP": null}\n')
    assert read_metrics(path) == [{"iteration": 20, "lr": 1.0}, {"iteration": 40, "bbox/AP": None}]


def test_an_unfinished_last_line_is_ignored(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2, "total_l')
    assert read_metrics(path) == [{"iteration": 1}]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '{"lr": 1.0}', "3", "null"])
def test_a_broken_line_raises_an_error_with_its_number_or_is_skipped(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps({'iteration': 1})}\n{line}\n{json.dumps({'iteration': 2})}\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: .*'iteration'"):
        read_metrics(path)
    assert read_metrics(path, skip_broken=True) == [{"iteration": 1}, {"iteration": 2}]


def test_a_missing_file_raises_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path / "metrics.jsonl")
