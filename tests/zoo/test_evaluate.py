import json
import math

import pytest
import torch

from detrex_lite.zoo import evaluate, load_zoo, select
from detrex_lite.zoo.evaluate import Row, evaluate_entries, format_rows

from .conftest import NUM_IMAGES


@pytest.fixture
def zoo(small_zoo):
    return load_zoo([small_zoo.table])


@pytest.fixture
def evaluations(monkeypatch):
    """The list of the checkpoints of all evaluations that run."""
    checkpoints = []
    run = evaluate.evaluate_config

    def recorded(cfg):
        checkpoints.append(cfg.train.init_checkpoint)
        return run(cfg)

    monkeypatch.setattr(evaluate, "evaluate_config", recorded)
    return checkpoints


def test_checkpoints_are_evaluated_although_others_fail(zoo, tmp_path, evaluations):
    output = tmp_path / "output"
    rows = {row.name: row for row in evaluate_entries(select(zoo, ["mine"]), output, command=lambda name: f"do {name}")}
    assert {name for name, row in rows.items() if not row.error} == {
        "small_detr",
        "small_deformable_detr",
        "small_dino",
    }
    assert "download the file there" in rows["by_hand"].error
    assert "HTTP 404" in rows["missing"].error
    assert len(evaluations) == 3

    detr = rows["small_detr"]
    assert detr.measured == pytest.approx(detr.metrics["AP"])
    assert (detr.published, detr.difference, detr.deviates) == (0.0, None, False)  # measured on other data
    assert detr.data.startswith(f"mine: {NUM_IMAGES} images")
    assert rows["small_deformable_detr"].data.startswith("coco_2017_val: ")
    assert rows["small_deformable_detr"].difference is None
    dino = rows["small_dino"]
    assert dino.difference == round(dino.measured - 49.2, 2)
    assert dino.deviates
    assert "torch" in detr.machine
    assert "cpu" in detr.machine
    assert detr.command == "do small_detr"
    assert (output / "small_detr" / "evaluation" / "predictions.json").is_file()

    table = json.loads((output / "results.json").read_text())
    assert {row["name"]: row["measured"] for row in table} == {name: row.measured for name, row in rows.items()}
    assert (output / "results.md").read_text() == format_rows(sorted(rows.values(), key=lambda row: row.name))


def test_results_are_reused_unless_the_settings_change(zoo, small_zoo, tmp_path, evaluations):
    def run(name, *overrides):
        evaluations.clear()
        [row] = evaluate_entries([zoo[name]], tmp_path / "output", overrides=overrides)
        return row, len(evaluations)

    row, count = run("small_detr")
    assert (row.error, count) == ("", 1)
    assert run("small_detr") == (row, 0)
    # Other weights of the file, another model, and other data.
    assert run("small_detr", "train.model_ema.use_in_eval=False")[1] == 1
    assert run("small_detr", "model.transformer.decoder.layer.ffn.activation._target_=torch.nn.GELU")[1] == 1
    assert run("small_detr", "dataloader.test.dataset={_target_: detrex_lite.data.load_dataset, name: coco_2017_val}")[
        1
    ]
    assert run("small_detr")[1] == 1


def test_changed_files_and_failures_are_evaluated_again(zoo, small_zoo, tmp_path, evaluations):
    output, file = tmp_path / "output", tmp_path / "custom.pth"
    file.write_bytes(small_zoo.checkpoints["dino"])
    entry = zoo["small_detr"]
    [row] = evaluate_entries([entry], output, weights=file)
    assert "another shape in the checkpoint" in row.error
    file.write_bytes(small_zoo.checkpoints["detr"])
    for _ in range(2):
        [row] = evaluate_entries([entry], output, weights=file)
        assert row.error == ""
    content = torch.load(file)
    content["model"]["queries.embedding.weight"] += 1
    torch.save(content, file)
    assert evaluate_entries([entry], output, weights=file)[0].error == ""
    assert len(evaluations) == 3


def test_nothing_is_downloaded_without_data(zoo, small_zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("DETREX_DATASETS", str(tmp_path))
    [row] = evaluate_entries([zoo["small_dino"]], tmp_path / "output")
    assert "'coco_2017_val' is not there" in row.error
    assert small_zoo.server.requests == []


def test_data_without_annotations_is_reported_as_a_failure(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "evaluate_config", lambda cfg: {})
    [row] = evaluate_entries([zoo["small_detr"]], tmp_path / "output")
    assert "has no annotations" in row.error


def test_results_of_masks_and_panoptic_quality_are_stored_and_shown(zoo, tmp_path, monkeypatch):
    results = {"bbox": {"AP": 51.7, "APs": math.nan}, "segm": {"AP": 46.25}, "panoptic_seg": {"PQ": 53.0}}
    monkeypatch.setattr(evaluate, "evaluate_config", lambda cfg: results)
    [row] = evaluate_entries([zoo["small_detr"]], tmp_path / "output")
    assert row.metrics == {"AP": 51.7, "APs": None, "segm/AP": 46.25, "panoptic_seg/PQ": 53.0}
    assert row.measured == 51.7
    assert "mask AP 46.25; PQ 53.00 |" in format_rows([row])


def test_a_result_of_another_version_is_replaced(zoo, tmp_path, evaluations):
    for text in ("{", '{"unknown": 1}'):
        (tmp_path / "output" / "small_detr").mkdir(parents=True, exist_ok=True)
        (tmp_path / "output" / "small_detr" / "result.json").write_text(text)
        [row] = evaluate_entries([zoo["small_detr"]], tmp_path / "output")
        assert row.error == ""
    assert len(evaluations) == 2


@pytest.mark.parametrize(
    ("measured", "difference", "deviates"),
    [(49.2, 0.0, False), (49.1, -0.1, False), (49.3, 0.1, False), (49.31, 0.11, True), (48.0, -1.2, True)],
)
def test_a_difference_above_the_tolerance_is_flagged(measured, difference, deviates):
    row = Row(name="a", published=49.2, measured=measured, date="2025-01-01 00:00")
    assert (row.difference, row.deviates) == (difference, deviates)
    line = next(line for line in format_rows([row]).splitlines() if line.startswith("| a |"))
    assert (f"**{difference:+.2f}**" in line) == deviates
    assert ("differs by more than 0.1" in line) == deviates


def test_the_table_is_markdown():
    rows = [
        Row(
            name="a", published=49.2, measured=49.25, data="val", date="2025-01-01 00:00", machine="cpu", command="do a"
        ),
        Row(name="b", published=None, error="two\nlines | and a bar"),
        Row(name="c", published=49.2, measured=30.0, comparable=False),
    ]
    lines = format_rows(rows).splitlines()
    assert lines[2] == "| a | 49.2 | 49.25 | +0.05 | val | 2025-01-01 00:00 | cpu |  |"
    assert lines[3] == "| b | - | - | - | - |  | - | two lines \\| and a bar |"
    assert lines[4] == "| c | 49.2 | 30.00 | - | - |  | - | data differs from published |"
    assert lines[-1] == "    do a"
