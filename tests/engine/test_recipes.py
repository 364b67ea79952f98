"""The recipe of real-time detectors: strong augmentation in some epochs, then a restart of the averaged weights."""

import re
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from detrex_lite.config import ConfigError, LazyConfig
from detrex_lite.config import LazyCall as L
from detrex_lite.data import (
    DetrDatasetMapper,
    InEpochs,
    Mixup,
    Mosaic,
    MultiScale,
    RandomIoUCrop,
    RandomPhotometricDistort,
    RealtimeAugmentation,
    build_train_loader,
    generate_shapes,
    load_shapes,
)
from detrex_lite.engine import Hook, flat_cosine, train
from detrex_lite.engine.loop.ema_restart import EmaRestart

from . import soak
from .test_resume import assert_same_run
from .tiny import CountingEvaluator, TinyDetector, tiny_config

STEPS = 3  # an epoch: 10 images in batches of 4
RESTART = 6 * STEPS
# The restart in epoch 6 goes back to the best model so far, with AP 50. Then 42 is not better than 50 (go back), 35 is
# the first AP after going back, 33 is not better than 35 (go back), and 60 is the best of all.
APS = [10.0, 20.0, 50.0, 40.0, 30.0, 45.0, 42.0, 35.0, 33.0, 60.0]
GOES_BACK = {RESTART: 0.8, 7 * STEPS: 0.7, 9 * STEPS: 0.6}  # before step -> decay from there on


class BoxDetector(TinyDetector):
    """The tiny model with a batch norm, and losses that depend on pixels, sizes and boxes."""

    def __init__(self):
        super().__init__()
        self.statistics = nn.BatchNorm1d(3)

    def forward(self, batched_inputs):
        losses = super().forward(batched_inputs)
        if self.training:
            colours = [
                record["image"].float().mean((1, 2)) / 255 + record["image"].shape[-1] / 500
                for record in batched_inputs
            ]
            boxes = [record["instances"].gt_boxes.tensor.sum(0) / 100 for record in batched_inputs]
            out = self.head(self.norm(self.backbone(self.statistics(torch.stack(colours)))))
            losses["loss_boxes"] = (out[:, self.num_classes :] - torch.stack(boxes)).abs().mean()
        return losses


class FailingEvaluator(CountingEvaluator):
    """Fails in evaluation number `fail_at`; earlier evaluations return the APs in `values`."""

    def __init__(self, *, values, fail_at=None):
        super().__init__(values=values)
        self.left = None if fail_at is None else fail_at

    def evaluate(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise OSError("the disk is gone")
        return super().evaluate()


class EpochEvaluator(CountingEvaluator):
    """Returns the AP of the epoch in the log, as a resumed program does not know how many evaluations came before."""

    def __init__(self, *, output_dir):
        super().__init__()
        self.log = Path(output_dir) / "log.txt"

    def evaluate(self):
        *_, last_iteration = re.findall(r"iteration (\d+)/", self.log.read_text())
        self.values = [APS[int(last_iteration) // STEPS - 1]]
        return super().evaluate()


class SlowBoxDetector(BoxDetector):
    """Its steps take long enough for the test to see the previous step in the log and kill the program."""

    def forward(self, batched_inputs):
        time.sleep(0.2)
        return super().forward(batched_inputs)


class Stop(Hook):
    """Raises an error before the given step, as a crash would."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self, trainer):
        if trainer.iteration == self.iteration:
            raise OSError("the disk is gone")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return a function that makes the config of a run from a folder and overrides."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(root, num_train=10, num_val=1)
    dataloader = {
        "train": L(build_train_loader)(
            dataset=L(load_shapes)(root=str(root), split="train"),
            mapper=L(DetrDatasetMapper)(
                augmentation=L(RealtimeAugmentation)(
                    size=64,
                    mosaic=L(InEpochs)(transform=L(Mosaic)(size=48), probability=0.5, epochs=[1, 4]),
                    photometric_distort=L(InEpochs)(transform=L(RandomPhotometricDistort)(), epochs=[1, 6]),
                    zoom_out=L(InEpochs)(transform=L(v2.RandomZoomOut)(fill=0), epochs=[1, 6]),
                    iou_crop=L(InEpochs)(transform=L(RandomIoUCrop)(), probability=0.8, epochs=[1, 6]),
                ),
                is_train=True,
            ),
            total_batch_size=4,
            num_workers=0,
            aspect_ratio_grouping=False,
            mixup=L(Mixup)(probability=0.5, epochs=[1, 4]),
            multi_scale=L(MultiScale)(sizes=[32, 64, 96], epochs=[0, 6]),
        ),
        "evaluator": L(FailingEvaluator)(values=APS, fail_at=None),
    }
    settings = [
        "train.max_iter=null",
        "train.max_epochs=10",
        "train.eval_epochs=1",
        "train.eval_period=null",
        "train.checkpointer.period=2",
        "train.checkpointer.max_to_keep=30",
        "train.clip_grad.enabled=True",
        "train.model_ema.enabled=True",
        "train.model_ema.decay=0.9",
        "train.model_ema.warmup=5",
        "train.model_ema.restart.epoch=6",
        "train.model_ema.restart.decay=0.8",
        "train.model_ema.restart.decay_step=0.1",
    ]

    def make(folder, *overrides):
        cfg = tiny_config(folder)
        cfg.model = L(BoxDetector)()
        cfg.dataloader.train, cfg.dataloader.evaluator = dataloader["train"], dataloader["evaluator"]
        cfg.lr_multiplier = L(flat_cosine)(epochs=10, flat_epochs=4, final_epochs=4, warmup_epochs=1)
        return LazyConfig.apply_overrides(cfg, [*settings, *overrides])

    return make


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(make(folder))
    return folder


def iteration_to_resume(folder):
    return torch.load(folder / (folder / "last_checkpoint").read_text(), weights_only=True)["iteration"]


def resume(make, folder, *overrides, evaluated):
    """Resume the run; its new evaluator skips the first `evaluated` results, which the run had before."""
    train(make(folder, f"dataloader.evaluator.values={APS[evaluated:]}", *overrides), resume=True)


# Epoch 0 has no strong augmentation, epochs 1 to 3 have all of it, 4 and 5 no mosaic and mixup, and 6 to 9 none.
@pytest.mark.parametrize(
    ("fail_at", "num_workers"), [(2, 0), (5, 0), (10, 2), (15, 0), (18, 0), (19, 2), (21, 0), (25, 0), (27, 0), (28, 0)]
)
def test_a_run_that_crashes_in_any_phase_is_resumed_exactly(make, whole, tmp_path, fail_at, num_workers):
    with pytest.raises(OSError, match="the disk is gone"):
        train(make(tmp_path), hooks=[Stop(fail_at)])
    iteration = iteration_to_resume(tmp_path)
    assert iteration in (fail_at, fail_at - 1)
    resume(make, tmp_path, f"dataloader.train.num_workers={num_workers}", evaluated=iteration // STEPS)
    assert_same_run(whole, tmp_path)


@pytest.mark.slow
def test_a_program_killed_in_every_phase_trains_the_same(make, tmp_path):
    """Each start resumes the previous run and is killed some steps later; the number of loader workers varies.

    By chance, a program may be killed in an evaluation or while a checkpoint is written.
    """
    cfg = make(tmp_path / "whole")
    cfg.model, cfg.dataloader.evaluator = L(SlowBoxDetector)(), L(EpochEvaluator)(output_dir="${train.output_dir}")
    LazyConfig.save(cfg, str(tmp_path / "recipe.yaml"))

    def start(name, *overrides, resume=False):
        trusted = ("--trust", "tests")
        return soak.Program(tmp_path / "recipe.yaml", tmp_path / name, *overrides, *trusted, resume=resume)

    assert start("whole").wait() == 0
    kills = (2, 5, 8, 11, 14, 17, 18, 20, 23, 26, 28)
    for number, step in enumerate(kills):
        program = start("killed", f"dataloader.train.num_workers={number % 3}", resume=number > 0)
        try:
            while program.is_running() and f"iteration {step}/" not in program.logged():
                time.sleep(0.01)
            program.send(signal.SIGKILL, "all", None)
            assert program.wait() == -signal.SIGKILL, program.printed.read_text()
        finally:
            program.end()
        assert soak.saved_iteration(tmp_path / "killed") in range(step - 2, step + 3)
    assert start("killed", resume=True).wait() == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("epoch", [6, 8])
def test_a_run_that_crashes_in_an_evaluation_before_a_restart_is_resumed_exactly(make, whole, tmp_path, epoch):
    with pytest.raises(OSError, match="the disk is gone"):
        train(make(tmp_path, f"dataloader.evaluator.fail_at={epoch - 1}"))
    assert iteration_to_resume(tmp_path) == epoch * STEPS
    resume(make, tmp_path, evaluated=epoch - 1)
    assert_same_run(whole, tmp_path)


def test_resuming_a_finished_run_from_before_the_restart_restores_the_same_model(make, whole, tmp_path):
    """The best model of the whole run, from the last epoch, has replaced the one that the restart went back to."""
    train(make(tmp_path))
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 30
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000016.pth")
    resume(make, tmp_path, evaluated=5)
    assert_same_run(whole, tmp_path)


class Comparison(Hook):
    """Compares weights, averaged weights and optimizer with the checkpoint that the run goes back to."""

    def __init__(self, folder):
        self.folder = folder
        self.decays = {}

    def before_step(self, trainer):
        (restart,) = [hook for hook in trainer.hooks if isinstance(hook, EmaRestart)]
        stored = None
        if trainer.iteration >= RESTART:
            stored = torch.load(self.folder / "model_before_restart.pth", weights_only=True)
            assert stored["iteration"] == 9
        went_back = stored is not None and _equal(stored["model"], trainer.model.state_dict())
        if went_back:
            assert _equal(stored["ema"], restart.ema.state_dict())
            assert restart.ema.updates == stored["ema_updates"] == 9
            moments = trainer.optimizer.state_dict()["state"]
            torch.testing.assert_close(moments, stored["optimizer"]["state"], rtol=0, atol=0)
            self.decays[trainer.iteration] = pytest.approx(restart.ema.decay)
        # Going back does not change the schedule of the learning rate: a cosine from epoch 4 to 6, then one half.
        if trainer.iteration >= RESTART:
            assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def _equal(state, other_state):
    return state.keys() == other_state.keys() and all(
        torch.equal(value, other_state[name]) for name, value in state.items()
    )


def test_a_restart_goes_back_to_the_best_model_and_lowers_the_decay(make, whole, tmp_path):
    comparison = Comparison(tmp_path)
    train(make(tmp_path), hooks=[comparison])
    assert comparison.decays == GOES_BACK
    assert_same_run(whole, tmp_path)
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert state["ema_restart"] == {"times": 2, "value": None}
    assert (tmp_path / "model_before_restart.pth").exists()


def test_without_a_restart_no_restart_state_is_saved(make, tmp_path):
    train(make(tmp_path, "train.model_ema.restart.epoch=null", "train.max_epochs=2"))
    assert "ema_restart" not in torch.load(tmp_path / "model_final.pth", weights_only=True)


def test_a_restart_after_the_end_of_the_run_is_logged(make, tmp_path):
    train(make(tmp_path, "train.max_epochs=2", "dataloader.evaluator.values=[1.0]"))
    assert "train.model_ema.restart.epoch=6 is after the end" in (tmp_path / "log.txt").read_text()


def test_a_restart_before_the_resumed_epoch_is_skipped_and_logged(make, tmp_path):
    train(make(tmp_path, "train.model_ema.restart.epoch=null", "train.max_epochs=3"))
    train(make(tmp_path, "train.model_ema.restart.epoch=2", "train.max_epochs=4"), resume=True)
    assert "past train.model_ema.restart.epoch" in (tmp_path / "log.txt").read_text()


def test_a_restart_without_a_best_model_keeps_the_current_one(make, tmp_path):
    undefined_ap = "dataloader.evaluator.values=[.nan]"
    train(make(tmp_path, undefined_ap, "train.model_ema.restart.epoch=2", "train.max_epochs=4"))
    kept = torch.load(tmp_path / "model_before_restart.pth", weights_only=True)
    assert kept["iteration"] == 2 * STEPS
    assert "No evaluation found a best model" in (tmp_path / "log.txt").read_text()


def test_resuming_without_the_best_model_names_the_missing_file(make, tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        train(make(tmp_path), hooks=[Stop(14)])
    (tmp_path / "model_best.pth").unlink()
    with pytest.raises(ValueError, match=r"model_best\.pth .*iteration 9"):
        resume(make, tmp_path, evaluated=4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.best_metric=null"], "restart.epoch=6 .* needs .*train.best_metric"),
        (
            ["dataloader.test=null", "dataloader.evaluator=null"],
            "restart.epoch=6 .* needs dataloader.test",
        ),
        (["train.eval_epochs=7"], "no evaluation .*train.eval_epochs=1"),
        (["train.eval_epochs=null"], "no evaluation .*train.eval_epochs=1"),
        (["train.model_ema.enabled=False"], "restart.epoch=6 needs train.model_ema.enabled=True"),
        (["train.model_ema.restart.epoch=0"], "restart.epoch=0 must be .* above 0"),
        (["train.model_ema.restart.decay=1.0"], r"restart.decay=1.0 must be .*\[0, 1\)"),
        (["train.model_ema.restart.decay_step=-1"], "restart.decay_step=-1 must be a number from 0"),
        (["+train.model_ema.restart.epochs=3"], "train.model_ema.restart.epochs is not a key"),
    ],
)
def test_contradictory_restart_settings_raise(make, tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        train(make(tmp_path, *overrides))


def test_the_saved_config_contains_the_recipe(whole):
    saved = LazyConfig.load(whole / "config.yaml")
    assert saved.dataloader.train.mixup.epochs == [1, 4]
    assert saved.train.model_ema.restart.epoch == 6
