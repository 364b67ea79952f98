"""A run that is interrupted and resumed equals the uninterrupted one to the last digit."""

import json
import signal

import pytest
import torch

from detrex_lite.config import ConfigError
from detrex_lite.engine import train
from detrex_lite.engine.loop.progress import PHASES
from detrex_lite.metrics_file import read_metrics

from .tiny import tiny_config

TIMES = {"time", "images_per_second", *(f"{name}_time" for name in PHASES)}

EVERYTHING = (
    "train.model_ema.enabled=True",
    "train.clip_grad.enabled=True",
    "train.accumulate_steps=2",
    "train.log_period=3",
    "train.eval_period=2",
    "optimizer.params.weight_decay_norm=0.0",
)


def run(folder, *overrides, resume=False):
    return train(tiny_config(folder, *overrides), resume=resume)


def numbers(folder):
    records = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def final_state(folder):
    """Load the final checkpoint, without the entries that differ between equal runs, and without text."""
    state = torch.load(folder / "model_final.pth", weights_only=True)
    if state["best"] is not None:
        assert state["best"].pop("metric") == "bbox/AP"
    state.pop("config")  # it names the output folder
    state.pop("class_names")
    state.pop("optimizer_class")
    for states in state["rng"]:
        assert states["numpy"].pop(0) == "MT19937"
    return state


def assert_same_run(expected, actual):
    assert numbers(expected) == numbers(actual)
    torch.testing.assert_close(final_state(expected), final_state(actual), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("overrides", "fail_at"),
    [
        ((), 4),
        ((), 5),
        (EVERYTHING, 9),
        (("train.amp.enabled=True",), 5),
        (("train.amp.enabled=True", "train.amp.dtype=fp16"), 5),
    ],
    ids=["at a checkpoint", "after a checkpoint", "everything", "bf16", "fp16"],
)
def test_a_crashed_run_is_resumed_exactly(tmp_path, overrides, fail_at):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, *overrides)
    with pytest.raises(OSError, match="the disk is gone"):
        run(broken, *overrides, f"dataloader.train.fail_at={fail_at}")
    assert not (broken / "model_final.pth").exists()
    run(broken, *overrides, resume=True)
    assert_same_run(whole, broken)


def test_a_run_stopped_by_a_signal_is_resumed_exactly(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, *EVERYTHING)
    with pytest.raises(SystemExit) as stopped:
        run(broken, *EVERYTHING, "dataloader.train.signal_at=5")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert (broken / "last_checkpoint").read_text() == "model_0000003.pth"
    run(broken, *EVERYTHING, resume=True)
    assert_same_run(whole, broken)


def test_a_damaged_checkpoint_is_named_and_the_previous_one_resumed(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, *EVERYTHING, "train.checkpointer.period=1")
    with pytest.raises(OSError, match="the disk is gone"):
        run(broken, *EVERYTHING, "train.checkpointer.period=1", "dataloader.train.fail_at=9")
    newest = broken / (broken / "last_checkpoint").read_text()
    assert newest.name == "model_0000004.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])
    run(broken, *EVERYTHING, "train.checkpointer.period=1", resume=True)
    log = (broken / "log.txt").read_text()
    assert "model_0000004.pth is damaged" in log
    assert "model_0000003.pth, after iteration 3" in log
    assert_same_run(whole, broken)


def test_processes_restarted_by_torchrun_resume(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole)
    with pytest.raises(OSError, match="the disk is gone"):
        run(broken, "dataloader.train.fail_at=5")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run(broken)
    assert_same_run(whole, broken)


def test_a_half_written_line_of_metrics_is_dropped(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path, "dataloader.train.fail_at=3")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4, "total')
    run(tmp_path, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6, 6]


def test_resuming_without_a_checkpoint_starts_from_the_beginning_and_logs_the_fact(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path / "broken", "dataloader.train.fail_at=1")
    run(tmp_path / "broken", resume=True)
    assert "training starts from the beginning" in (tmp_path / "broken" / "log.txt").read_text()
    run(tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_folder_with_another_run_raises(tmp_path):
    run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(
        ConfigError,
        match=r"another run \(last_checkpoint, .*metrics\.jsonl\).*--resume.*train\.output_dir",
    ):
        run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_resuming_a_finished_run_takes_no_step_and_keeps_the_results(tmp_path):
    results = run(tmp_path)
    before = numbers(tmp_path)
    assert run(tmp_path, resume=True) == results == {"bbox": {"AP": 10.0}}
    assert numbers(tmp_path) == before


def test_a_finished_run_can_be_extended(tmp_path):
    run(tmp_path)
    run(tmp_path, "train.max_iter=8", resume=True)
    assert [record["iteration"] for record in numbers(tmp_path)] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 8]
    log = (tmp_path / "log.txt").read_text()
    assert "The config has changed since the checkpoint" in log
    assert "+   max_iter: 8" in log


def test_an_interrupted_evaluation_is_repeated_after_resuming(tmp_path):
    with pytest.raises(TypeError, match="cannot unpack"):
        # The evaluator has no values: it fails after the checkpoint of step 2 was saved.
        run(tmp_path, "train.eval_period=2", "dataloader.evaluator.values=null")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    run(tmp_path, "train.eval_period=2", resume=True)
    evaluations = [record["iteration"] for record in numbers(tmp_path) if "bbox/AP" in record]
    assert evaluations == [2, 4, 6]


def test_the_best_result_so_far_is_restored(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        run(
            tmp_path,
            "train.eval_period=2",
            "dataloader.evaluator.values=[30.0,20.0]",
            "dataloader.train.fail_at=5",
        )
    run(tmp_path, "train.eval_period=2", resume=True)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 2
    best = torch.load(tmp_path / "model_final.pth", weights_only=True)["best"]
    assert best == {"metric": "bbox/AP", "value": 30.0, "iteration": 2}


def test_resuming_with_another_model_raises(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path, "dataloader.train.fail_at=3")
    with pytest.raises(ValueError, match=r"(?s)model_0000002\.pth does not fit the model .* head\.weight"):
        run(tmp_path, "model.num_classes=5", resume=True)


def test_resuming_with_other_parameter_groups_raises(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path, "dataloader.train.fail_at=3")
    with pytest.raises(ValueError, match=r"model_0000002\.pth does not fit the model and optimizer"):
        run(tmp_path, "optimizer.params.backbone_lr_factor=0.1", resume=True)


def test_the_learning_rate_follows_the_config_of_the_resumed_run(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path, "dataloader.train.fail_at=3")
    run(tmp_path, "optimizer.lr=0.5", resume=True)
    rates = [record["lr"] for record in numbers(tmp_path) if "lr" in record]
    assert rates[2] > 0.3 > rates[1]


def test_model_ema_enabled_on_resuming_starts_from_the_weights(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path, "dataloader.train.fail_at=3")
    run(tmp_path, "train.model_ema.enabled=True", "train.model_ema.warmup=0", "train.max_iter=4", resume=True)
    assert final_state(tmp_path)["ema_updates"] == 2
    assert "the average begins now" in (tmp_path / "log.txt").read_text()


def test_a_failure_before_the_first_step_does_not_block_the_folder(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path / "corrected", "dataloader.train.fail_at=0")
    assert (tmp_path / "corrected" / "config.yaml").exists()
    run(tmp_path / "corrected")
    run(tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "corrected")


def test_a_rejected_config_leaves_no_new_folder(tmp_path):
    with pytest.raises(ConfigError):
        run(tmp_path / "new", "train.best_metric=bbox/AQ", "train.patience=3")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(ConfigError):
        run(tmp_path / "old", "train.patience=3")
    assert (tmp_path / "old" / "log.txt").exists()


PATIENT = (
    "train.eval_period=2",
    "train.max_iter=40",
    "train.patience=2",
    "dataloader.evaluator.values=[20.0,30.0,25.0]",
)


def test_training_stops_early_when_evaluations_do_not_improve(tmp_path):
    assert run(tmp_path, *PATIENT) == {"bbox": {"AP": 25.0}}
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert (state["iteration"], state["best"]["iteration"]) == (8, 4)
    assert [r["iteration"] for r in numbers(tmp_path) if "bbox/AP" in r] == [2, 4, 6, 8]
    log = (tmp_path / "log.txt").read_text()
    assert "Early stopping after iteration 8 of 40" in log
    assert "iteration 4" in log
    assert (tmp_path / "report.html").exists()


def test_early_stopping_is_resumed_exactly(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, *PATIENT)
    with pytest.raises(OSError, match="the disk is gone"):
        run(broken, *PATIENT, "dataloader.train.fail_at=7")
    run(broken, *PATIENT, "dataloader.evaluator.values=[25.0]", resume=True)
    assert_same_run(whole, broken)


def test_a_run_stopped_early_continues_only_with_more_patience(tmp_path):
    run(tmp_path, *PATIENT)
    run(tmp_path, *PATIENT, resume=True)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 8
    run(tmp_path, *PATIENT, "train.patience=3", "dataloader.evaluator.values=[25.0]", resume=True)
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert (state["iteration"], state["stagnation"]) == (10, {"evaluations": 3, "iteration": 10})


def test_an_evaluation_repeated_after_a_crash_is_counted_once(tmp_path):
    """The run crashed between the checkpoint of step 8 and its evaluation, the last one within the patience."""
    run(tmp_path, *PATIENT, "train.max_iter=8", "train.patience=3")
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000006.pth")
    run(tmp_path, *PATIENT, "dataloader.evaluator.values=[25.0]", resume=True)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 8


def test_patience_needs_evaluations(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.eval_epochs"):
        run(tmp_path, "train.patience=2")
    with pytest.raises(ConfigError, match=r"train\.best_metric"):
        run(tmp_path, "train.patience=2", "train.eval_period=2", "train.best_metric=null")
    with pytest.raises(ConfigError, match=r"train\.patience=0"):
        run(tmp_path, "train.patience=0", "train.eval_period=2")
