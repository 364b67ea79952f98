import math

import pytest
import torch

from detrex_lite.engine import train
from detrex_lite.engine.loop.hooks import LearningRate, flatten, unflatten
from detrex_lite.metrics_file import read_metrics

from ..tiny import tiny_config


def checkpoint_names(folder):
    return {path.name for path in folder.glob("*.pth")}


def test_the_learning_rate_of_each_group_follows_the_multiplier():
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)], lr=1.0
    )
    hook = LearningRate(optimizer, lambda where: 1 - where)

    class TrainerAtStepThree:
        iteration, max_iter = 3, 4

    TrainerAtStepThree.optimizer = optimizer
    for _ in range(2):  # the factor multiplies the initial rate, not the current rate
        hook.before_step(TrainerAtStepThree)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.025]


def test_checkpoints_are_periodic_final_and_limited(tmp_path):
    train(tiny_config(tmp_path, "train.checkpointer.period=1", "train.checkpointer.max_to_keep=2"))
    assert checkpoint_names(tmp_path) == {"model_0000004.pth", "model_0000005.pth", "model_best.pth", "model_final.pth"}


def test_without_a_period_only_best_and_final_checkpoints_are_saved(tmp_path):
    train(tiny_config(tmp_path, "train.checkpointer.period=0"))
    assert checkpoint_names(tmp_path) == {"model_best.pth", "model_final.pth"}


def test_the_best_checkpoint_is_of_the_best_evaluation(tmp_path):
    cfg = tiny_config(tmp_path, "train.eval_period=1", "dataloader.evaluator.values=[20.0,nan,50.0,50.0,40.0]")
    results = train(cfg)
    assert results == {"bbox": {"AP": 40.0}}
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["best"] == {"metric": "bbox/AP", "value": 50.0, "iteration": 3}
    assert best["iteration"] == 3
    values = [record["bbox/AP"] for record in read_metrics(tmp_path / "metrics.jsonl") if "bbox/AP" in record]
    assert values == [20.0, None, 50.0, 50.0, 40.0, 40.0]


def test_an_unknown_best_metric_is_logged_with_the_nearest_name(tmp_path):
    train(tiny_config(tmp_path, "train.best_metric=bbox/APP"))
    log = (tmp_path / "log.txt").read_text()
    assert "no train.best_metric=bbox/APP; did you mean 'bbox/AP'" in log
    assert "model_best.pth" not in checkpoint_names(tmp_path)


def test_results_without_metrics_have_no_best_checkpoint(tmp_path):
    cfg = tiny_config(tmp_path)
    cfg.dataloader.evaluator._target_ = "tests.engine.loop.test_hooks.Unannotated"
    assert train(cfg) == {}
    assert "model_best.pth" not in checkpoint_names(tmp_path)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1] == {"iteration": 6}


def Unannotated(**arguments):
    from ..tiny import CountingEvaluator

    evaluator = CountingEvaluator(**arguments)
    evaluator.evaluate = dict
    return evaluator


def test_the_average_is_evaluated_if_use_in_eval_is_set(tmp_path):
    for use_in_eval in (True, False):
        cfg = tiny_config(
            tmp_path / str(use_in_eval), "train.model_ema.enabled=True", f"train.model_ema.use_in_eval={use_in_eval}"
        )
        cfg.dataloader.evaluator._target_ = "tests.engine.loop.test_hooks.ScoreEvaluator"
        results = train(cfg)
        stored = torch.load(tmp_path / str(use_in_eval) / "model_final.pth", weights_only=True)
        assert not torch.equal(stored["ema"]["head.bias"], stored["model"]["head.bias"])
        assert stored["ema_updates"] == 6
        model = instantiate_with(stored["ema" if use_in_eval else "model"])
        assert results["bbox"]["AP"] == pytest.approx(mean_score(model))


def ScoreEvaluator(**arguments):
    """Return an evaluator whose AP is the mean score, which differs between two sets of weights."""
    from ..tiny import CountingEvaluator

    class Evaluator(CountingEvaluator):
        def reset(self):
            super().reset()
            self.scores = []

        def process(self, inputs, outputs):
            super().process(inputs, outputs)
            self.scores += [output["instances"].scores.item() for output in outputs]

        def evaluate(self):
            return {"bbox": {"AP": sum(self.scores) / len(self.scores)}}

    return Evaluator(**arguments)


def instantiate_with(weights):
    from ..tiny import TinyDetector

    model = TinyDetector()
    model.load_state_dict(weights)
    return model.eval()


def mean_score(model):
    from ..tiny import TinyLoader

    with torch.no_grad():
        outputs = [model([TinyLoader.image(index)])[0]["instances"].scores.item() for index in range(4)]
    return sum(outputs) / len(outputs)


def test_unflatten_inverts_flatten():
    results = {"bbox": {"AP": 1.0, "AP-a/b": 2.0}, "segm": {"AP": math.nan}}
    flat = flatten(results)
    assert list(flat) == ["bbox/AP", "bbox/AP-a/b", "segm/AP"]
    back = unflatten({**flat, "segm/AP": None})
    assert back["bbox"] == results["bbox"]
    assert math.isnan(back["segm"]["AP"])


def test_evaluation_does_not_change_training(tmp_path):
    losses = []
    for period in (0, 1):
        train(tiny_config(tmp_path / str(period), f"train.eval_period={period}"))
        records = read_metrics(tmp_path / str(period) / "metrics.jsonl")
        losses.append([record["total_loss"] for record in records if "total_loss" in record])
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]
