"""Numbers that models and hooks write to the log, from `log_scalar` to metrics.jsonl."""

import copy
import math

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from detrex_lite import distributed, log_scalar
from detrex_lite.config import trust
from detrex_lite.engine import Hook, launch, train
from detrex_lite.layers import FFN
from detrex_lite.metrics_file import read_metrics
from detrex_lite.scalars import Scalars

from .engine.test_resume import assert_same_run, numbers
from .engine.tiny import TinyDetector, TinyLoader, tiny_config

CPU = torch.device("cpu")


class Gate(nn.Module):
    """A module inside a model that logs a tensor with a gradient, a parameter and a float."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, features):
        log_scalar("gate", features.mean() * self.scale)
        log_scalar("scale", self.scale)
        log_scalar("mode", 1.0 if self.training else 0.0)
        return features * self.scale


class LoggingDetector(TinyDetector):
    """A tiny detector with a `Gate`; logs the id of the first image of each batch."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.backbone = nn.Sequential(self.backbone, Gate())

    def forward(self, batched_inputs):
        log_scalar("first_image", batched_inputs[0]["image_id"])
        return super().forward(batched_inputs)


def config(folder, *overrides):
    return tiny_config(folder, "model._target_=tests.test_scalars.LoggingDetector", *overrides)


def logged(folder, name):
    return [(record["iteration"], record[name]) for record in read_metrics(folder / "metrics.jsonl") if name in record]


def test_values_with_the_same_name_are_averaged():
    scalars = Scalars()
    with scalars.listen():
        log_scalar("gate", 1)
        log_scalar("gate", torch.tensor([4.0], dtype=torch.float64))
        log_scalar("count", torch.tensor(3))
    log_scalar("gate", 100.0)
    means = scalars.means(CPU)
    assert {name: float(mean) for name, mean in means.items()} == {"gate": 2.5, "count": 3.0}
    assert {(mean.dtype, mean.dim()) for mean in means.values()} == {(torch.float32, 0)}


def test_tensors_are_copied_without_their_graph():
    scalars, value = Scalars(), torch.tensor(1.0, requires_grad=True)
    scalars.add("scale", value)
    with torch.no_grad():
        value.fill_(5.0)
    mean = scalars.means(CPU)["scale"]
    assert mean.item() == 1.0
    assert not mean.requires_grad


def test_a_tensor_with_several_values_raises_an_error():
    with Scalars().listen(), pytest.raises(ValueError, match=r"'gate'.*\(2,\)"):
        log_scalar("gate", torch.ones(2))


def test_scalars_reach_writers_and_log_but_not_the_loss(tmp_path):
    plain = train(tiny_config(tmp_path / "plain", "train.log_period=2"))
    overrides = ("train.log_period=2", "train.csv=True")
    assert train(config(tmp_path / "logs", *overrides)) == plain
    assert logged(tmp_path / "logs", "first_image") == [(2, 1.0), (4, 5.0), (6, 9.0)]
    assert logged(tmp_path / "logs", "mode") == [(2, 1.0), (4, 1.0), (6, 1.0)]
    assert logged(tmp_path / "logs", "scale")[0][1] == pytest.approx(2.0, abs=0.05)
    for record in read_metrics(tmp_path / "logs" / "metrics.jsonl"):
        if "total_loss" in record:
            assert record["total_loss"] == pytest.approx(record["loss_class"] + record["loss_bbox"])
    assert "first_image 5 " in (tmp_path / "logs" / "log.txt").read_text()
    assert "first_image" in (tmp_path / "logs" / "metrics.csv").read_text().splitlines()[0]
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


def test_batches_of_a_step_are_averaged(tmp_path):
    train(config(tmp_path, "train.accumulate_steps=2"))
    assert [value for _, value in logged(tmp_path, "first_image")] == [1.0, 5.0, 9.0, 13.0, 17.0, 21.0]


@pytest.mark.parametrize("overrides", [(), ("train.accumulate_steps=2", "train.amp.enabled=True")])
def test_a_resumed_run_writes_the_same_scalars(tmp_path, overrides):
    uninterrupted, interrupted = tmp_path / "whole", tmp_path / "broken"
    train(config(uninterrupted, "train.log_period=3", *overrides))
    with pytest.raises(OSError, match="the disk is gone"):
        train(config(interrupted, "train.log_period=3", *overrides, "dataloader.train.fail_at=5"))
    train(config(interrupted, "train.log_period=3", *overrides), resume=True)
    assert_same_run(uninterrupted, interrupted)
    assert "gate" in numbers(interrupted)[0]


def test_evaluation_and_prediction_log_nothing(tmp_path):
    train(config(tmp_path, "train.eval_period=1", "train.log_period=6"))
    assert logged(tmp_path, "mode") == [(6, 1.0)]
    LoggingDetector().eval()([TinyLoader.image(0)])
    log_scalar("gate", torch.ones(2))  # would raise an error in training


class ByRank(TinyDetector):
    def forward(self, batched_inputs):
        log_scalar("rank", distributed.rank())
        if distributed.rank() == 1:
            log_scalar("of_rank_1", 7.0)
        return super().forward(batched_inputs)


def train_by_rank(folder):
    trust("tests")
    train(tiny_config(folder, "model._target_=tests.test_scalars.ByRank"))


def test_processes_are_averaged(tmp_path):
    launch(train_by_rank, 2, device="cpu", args=(tmp_path,))
    assert {value for _, value in logged(tmp_path, "rank")} == {0.5}
    assert {value for _, value in logged(tmp_path, "of_rank_1")} == {7.0}


@pytest.mark.parametrize("name", ["loss_class", "lr", "iteration", "total_loss", "data_time"])
def test_names_that_the_log_uses_are_rejected(tmp_path, name):
    class Logs(Hook):
        def after_step(self, trainer):
            trainer.scalars.add(name, 1.0)

    with pytest.raises(ValueError, match=f"'{name}'.*already"):
        train(tiny_config(tmp_path), hooks=[Logs()])


def test_a_hook_can_log(tmp_path):
    class Logs(Hook):
        def after_step(self, trainer):
            trainer.scalars.add("half", trainer.iteration / 2)

    train(tiny_config(tmp_path, "train.log_period=3"), hooks=[Logs()])
    assert logged(tmp_path, "half") == [(3, 1.0), (6, 2.5)]


def test_values_that_are_not_finite_are_logged_as_null(tmp_path):
    class Logs(Hook):
        def after_step(self, trainer):
            trainer.scalars.add("ratio", math.nan)

    train(tiny_config(tmp_path), hooks=[Logs()])
    assert logged(tmp_path, "ratio") == [(step, None) for step in range(1, 7)]


def test_a_compiled_model_logs_without_graph_breaks():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(3, 3), Gate(), Gate())
    graphs = CompileCounter()
    compiled = torch.compile(copy.deepcopy(model), backend=graphs, fullgraph=True)
    for step in range(3):
        means = []
        for module in (model, compiled):
            scalars = Scalars()
            with scalars.listen():
                module(torch.full((2, 3), float(step))).sum().backward()
            means.append(scalars.means(CPU))
        torch.testing.assert_close(*means)
        assert set(means[0]) == {"gate", "scale", "mode"}
    assert graphs.frame_count == 1


def test_recomputed_activations_are_logged_once():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ffn = FFN(embed_dim=4, feedforward_dim=8)

        def forward(self, x):
            log_scalar("seen", 1.0)
            return self.ffn(x)

    block, scalars = Block(), Scalars()
    with scalars.listen():
        out = torch.utils.checkpoint.checkpoint(block, torch.ones(1, 2, 4, requires_grad=True), use_reentrant=False)
    out.sum().backward()
    assert len(scalars._values["seen"]) == 1
