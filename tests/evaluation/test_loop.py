import logging

import pytest
import torch
from torch import nn

from detrex_lite.evaluation import loop, run_evaluation


class RecordingEvaluator:
    def __init__(self):
        self.calls = []

    def reset(self):
        self.calls.append("reset")

    def process(self, inputs, outputs):
        assert torch.is_inference_mode_enabled()
        self.calls.append((inputs, outputs))

    def evaluate(self):
        self.calls.append("evaluate")
        return {"bbox": {"AP": 12.5}}


class Echo(nn.Module):
    def __init__(self):
        super().__init__()
        self.free = nn.Dropout()
        self.frozen = nn.Dropout().eval()

    def forward(self, inputs):
        assert not self.training
        assert not self.free.training
        return [{"instances": record["image_id"]} for record in inputs]


BATCHES = [[{"image_id": 1}, {"image_id": 2}], [{"image_id": 3}]]


def test_every_batch_is_passed_to_the_evaluator(caplog):
    evaluator = RecordingEvaluator()
    with caplog.at_level(logging.INFO):
        assert run_evaluation(Echo(), BATCHES, evaluator) == {"bbox": {"AP": 12.5}}
    first, *processed, last = evaluator.calls
    assert (first, last) == ("reset", "evaluate")
    assert processed == [(batch, [{"instances": record["image_id"]} for record in batch]) for batch in BATCHES]
    assert "Inference on 3 images took" in caplog.text
    assert "images/s" in caplog.text


def test_training_mode_of_each_module_is_restored():
    model = Echo()
    run_evaluation(model, BATCHES, RecordingEvaluator())
    assert (model.training, model.free.training, model.frozen.training) == (True, True, False)
    model.eval()
    run_evaluation(model, BATCHES, RecordingEvaluator())
    assert not model.training


def test_training_mode_is_restored_after_an_error():
    class Broken(Echo):
        def forward(self, inputs):
            raise RuntimeError("out of memory")

    model = Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        run_evaluation(model, BATCHES, RecordingEvaluator())
    assert model.training


def test_max_batches_reads_only_these_batches_and_skips_metrics():
    def batches():
        yield BATCHES[0]
        raise AssertionError("read too far")

    evaluator = RecordingEvaluator()
    assert run_evaluation(Echo(), batches(), evaluator, max_batches=1) == {}
    assert len(evaluator.calls) == 3
    assert (evaluator.calls[0], evaluator.calls[2]) == ("reset", "reset")


def test_progress_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_LOGS", 0.0)
    with caplog.at_level(logging.INFO):
        run_evaluation(Echo(), BATCHES, RecordingEvaluator())
        run_evaluation(Echo(), iter(BATCHES), RecordingEvaluator())
    assert "batch 1 of 2" in caplog.text
    assert "batch 2 of 2" in caplog.text
    assert "Inference: batch 2, " in caplog.text


def test_a_loader_without_batches_raises_an_error():
    with pytest.raises(ValueError, match="no batch"):
        run_evaluation(Echo(), [], RecordingEvaluator())
