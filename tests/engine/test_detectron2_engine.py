"""Runs this package's configs with detectron2's engine; all tests but the first need detectron2."""

import json
import logging
import sys

import pytest
import torch

from detrex_lite import cli, distributed
from detrex_lite.checkpoint import CheckpointError
from detrex_lite.cli.arguments import ENGINES
from detrex_lite.config import ConfigError, LazyConfig, get_config, instantiate
from detrex_lite.data import generate_shapes
from detrex_lite.engine import evaluate, find_engine, launch, train
from detrex_lite.projects.detr.modeling import DETR
from detrex_lite.structures import Boxes, Instances
from tests.detectron2 import needs_detectron2

from ..test_scalars import config as logging_config
from .tiny import CONFIG_FILE, TinyDetector, TinyLoader, tiny_config

LEAVES = (
    "projects/detr/configs/detr_small_shapes.py",
    "projects/deformable_detr/configs/deformable_detr_small_shapes.py",
)
STEPS = 6

recorded_losses: list[dict[str, float]] = []
"""The losses of each training step of the model that `build_recorded` built last."""


def build_recorded(*, of, **arguments):
    """Build the model that a config describes and record its losses in `recorded_losses`."""

    def record(module, inputs, output):
        if module.training:
            recorded_losses.append({name: float(loss.detach()) for name, loss in output.items()})

    recorded_losses.clear()
    model = of(**arguments)
    model.register_forward_hook(record)
    return model


def recorded_config(path, shapes, output_dir, *overrides):
    """Load a leaf config and shorten it to a few steps on small batches."""
    cfg = LazyConfig.load(path)
    cfg.model.update(of=cfg.model._target_, _target_=build_recorded)
    settings = ("train.device=cpu", "train.log_period=1", "train.eval_period=0", f"train.max_iter={STEPS}")
    paths = (f"dataset.root={shapes}", f"train.output_dir={output_dir}")
    small = ("dataloader.train.total_batch_size=4", "train.checkpointer.period=0")
    return LazyConfig.apply_overrides(cfg, [*settings, *paths, *small, *overrides])


def train_with_both(folder, shapes):
    """Train with both engines in each of several processes, and write the losses to a file."""
    losses = {}
    for engine in ENGINES:
        cfg = recorded_config(LEAVES[0], shapes, folder / engine, "train.clip_grad.enabled=True")
        find_engine(engine)[0](cfg)
        losses[engine] = list(recorded_losses)
    (folder / f"losses_{distributed.rank()}.json").write_text(json.dumps(losses))


def test_without_detectron2_the_error_says_how_to_install_the_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    for name in [name for name in sys.modules if name.startswith("detectron2.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match="--engine detectron2 needs detectron2"):
        find_engine("detectron2")
    assert find_engine("detrex_lite") == (train, evaluate)
    arguments = ["--config-file", str(CONFIG_FILE), "--engine", "detectron2"]
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["train", *arguments])
    assert exit_info.value.code == 2
    assert "pip install --no-build-isolation -e detectron2" in capsys.readouterr().err


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=20, num_val=4, image_size=64)


@pytest.fixture
def make_config(shapes, tmp_path):
    return lambda path, name, *overrides: recorded_config(path, shapes, tmp_path / name, *overrides)


@pytest.fixture
def detectron2_engine():
    """Return detectron2's engine, and restore the loggers that the engine changes."""
    if "detectron2" not in sys.modules:
        pytest.importorskip("detectron2")
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [(list(logger.handlers), logger.propagate, logger.level) for logger in loggers]
    yield find_engine("detectron2")
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate, logger.level = handlers, propagate, level


def weights(path):
    return torch.load(path, weights_only=True)["model"]


@needs_detectron2
@pytest.mark.parametrize("path", LEAVES)
def test_both_engines_compute_the_same_losses(make_config, detectron2_engine, tmp_path, path):
    overrides = ("train.clip_grad.enabled=True", "model.transformer.encoder.layer.ffn.ffn_drop=0.1")
    losses = []
    for name, run in (("ours", train), ("detectron2", detectron2_engine[0])):
        results = run(make_config(path, name, *overrides))
        losses.append(list(recorded_losses))
    assert set(results["bbox"]) >= {"AP", "AR100", "AP-circle"}
    ours, detectron2 = losses
    assert len(ours) == len(detectron2) == STEPS
    assert ours[0] != ours[1]
    for left, right in zip(ours, detectron2, strict=True):
        assert left == pytest.approx(right, rel=1e-5, abs=1e-5)
    final = [weights(tmp_path / name / "model_final.pth") for name in ("ours", "detectron2")]
    torch.testing.assert_close(final[0], final[1], rtol=1e-5, atol=1e-5)


@needs_detectron2
def test_a_config_trains_the_same_in_a_plain_detectron2_script(make_config, detectron2_engine, tmp_path):
    """Components are loaded and built by detectron2, in the order of its own training script."""
    from detectron2 import config as d2
    from detectron2.engine import SimpleTrainer
    from detectron2.engine.hooks import LRScheduler
    from detectron2.utils.env import seed_all_rng

    ours = make_config(LEAVES[0], "ours")
    train(ours)
    expected = list(recorded_losses)
    recorded_losses.clear()
    cfg = d2.LazyConfig.load(LEAVES[0])
    overrides = [f"dataset.root={ours.dataset.root}", "dataloader.train.total_batch_size=4"]
    cfg = d2.LazyConfig.apply_overrides(cfg, [*overrides, f"train.max_iter={STEPS}"])
    cfg.model.update(_target_=build_recorded, of=DETR)
    seed_all_rng(cfg.train.seed)
    model = cfg.optimizer.params.model = d2.instantiate(cfg.model)
    trainer = SimpleTrainer(model, d2.instantiate(cfg.dataloader.train), d2.instantiate(cfg.optimizer))
    trainer.register_hooks([LRScheduler(scheduler=d2.instantiate(cfg.lr_multiplier))])
    trainer.train(0, cfg.train.max_iter)
    assert len(recorded_losses) == STEPS
    for left, right in zip(expected, recorded_losses, strict=True):
        assert left == pytest.approx(right, rel=1e-5, abs=1e-5)


USERS_CONFIG = """
from detrex_lite.projects.detr.configs.detr_small_shapes import dataloader, dataset, lr_multiplier
from detrex_lite.projects.detr.configs.detr_small_shapes import model, optimizer, train

dataloader.train.total_batch_size = 4
optimizer.lr = 3e-4
train.device = "cpu"
"""


@needs_detectron2
def test_a_config_that_imports_a_leaf_by_its_full_name_trains(make_config, detectron2_engine, tmp_path):
    """The config is loaded by detectron2's loader, as in its own script, and by ours."""
    from detectron2 import config as d2
    from detectron2.engine import SimpleTrainer
    from detectron2.engine.hooks import LRScheduler

    path = tmp_path / "custom.py"
    path.write_text(USERS_CONFIG)
    ours = LazyConfig.load(path)
    overrides = [f"dataset.root={make_config(LEAVES[0], 'unused').dataset.root}", f"train.max_iter={STEPS}"]
    cfg = d2.LazyConfig.apply_overrides(d2.LazyConfig.load(str(path)), overrides)
    assert LazyConfig.to_yaml(cfg) == LazyConfig.to_yaml(LazyConfig.apply_overrides(ours, overrides))
    assert LazyConfig.load(LEAVES[0]).optimizer.lr == 5e-4
    model = cfg.optimizer.params.model = d2.instantiate(cfg.model)
    trainer = SimpleTrainer(model, d2.instantiate(cfg.dataloader.train), d2.instantiate(cfg.optimizer))
    trainer.register_hooks([LRScheduler(scheduler=d2.instantiate(cfg.lr_multiplier))])
    trainer.train(0, 2)


@needs_detectron2
def test_scalars_reach_the_storage_of_detectron2(detectron2_engine, tmp_path):
    detectron2_engine[0](logging_config(tmp_path / "run", "dataloader.test=null", "dataloader.evaluator=null"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert lines[-1]["mode"] == 1.0
    assert lines[-1]["first_image"] == 5.0  # the median of 6 steps
    assert lines[-1]["total_loss"] == pytest.approx(lines[-1]["loss_class"] + lines[-1]["loss_bbox"], rel=0.2)


@needs_detectron2
def test_a_resumed_run_continues_with_the_next_batches(make_config, detectron2_engine, tmp_path):
    train_detectron2, _ = detectron2_engine
    constant = get_config("common/schedule.py").lr_multiplier_12ep  # 1 for all of these steps

    def run(name, max_iter, resume=False):
        cfg = make_config(LEAVES[0], name, f"train.max_iter={max_iter}", "dataloader.test=null")
        cfg.dataloader.evaluator, cfg.lr_multiplier = None, constant
        train_detectron2(cfg, resume=resume)
        return list(recorded_losses)

    whole = run("whole", STEPS)
    first, rest = run("part", 2), run("part", STEPS, resume=True)
    for left, right in zip(whole, [*first, *rest], strict=True):
        assert left == pytest.approx(right, rel=1e-5, abs=1e-5)
    assert run("part", STEPS, resume=True) == []  # there is nothing left to do


@needs_detectron2
def test_runs_of_detectron2_are_read_by_this_package(make_config, detectron2_engine, tmp_path):
    train_detectron2, evaluate_detectron2 = detectron2_engine
    results = train_detectron2(make_config(LEAVES[0], "run", "train.checkpointer.period=4", "train.eval_period=3"))
    folder = tmp_path / "run"
    present = {path.name for path in folder.iterdir()}
    assert present >= {"config.yaml", "log.txt", "metrics.json", "last_checkpoint", "evaluation", "model_best.pth"}
    assert present >= {"model_0000003.pth", "model_final.pth"}
    assert torch.load(folder / "model_final.pth", weights_only=True)["class_names"] == ["circle", "square", "triangle"]
    assert "20 images" in (folder / "log.txt").read_text()
    for run in (evaluate, evaluate_detectron2):
        cfg = make_config(LEAVES[0], "other", f"train.init_checkpoint={folder}/model_final.pth")
        torch.testing.assert_close(run(cfg), results, rtol=0, atol=1e-9, equal_nan=True)
    with pytest.raises(ConfigError, match="another run"):
        train_detectron2(make_config(LEAVES[0], "run"))


@needs_detectron2
def test_the_evaluator_of_detectron2_agrees(make_config, detectron2_engine, tmp_path):
    train_detectron2, evaluate_detectron2 = detectron2_engine
    ours = train_detectron2(make_config(LEAVES[0], "run", "optimizer.lr=2e-3", "train.max_iter=30"))["bbox"]
    evaluator = "dataloader.evaluator._target_=detrex_lite.evaluation.detectron2_coco_evaluator"
    cfg = make_config(LEAVES[0], "other", evaluator, f"train.init_checkpoint={tmp_path}/run/model_final.pth")
    for run in (evaluate, evaluate_detectron2):
        actual = run(cfg)["bbox"]
        assert set(actual) == {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-circle", "AP-square", "AP-triangle"}
        assert actual == pytest.approx({name: ours[name] for name in actual}, abs=1e-6, nan_ok=True)


@needs_detectron2
def test_resuming_with_other_classes_raises(make_config, detectron2_engine, tmp_path):
    train_detectron2, _ = detectron2_engine
    train_detectron2(make_config(LEAVES[0], "run", "train.max_iter=1"))
    path = tmp_path / "run" / "model_final.pth"
    (tmp_path / "run" / "last_checkpoint").write_text("model_final.pth")
    torch.save({**torch.load(path, weights_only=True), "class_names": ["a", "b", "c"]}, path)
    with pytest.raises(CheckpointError, match=r"classes \['a', 'b', 'c'\]; .*\['circle'"):
        train_detectron2(make_config(LEAVES[0], "run"), resume=True)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@needs_detectron2
def test_resuming_runs_no_code_from_a_checkpoint(make_config, detectron2_engine, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # as torch before 2.6 reads files
    (tmp_path / "run").mkdir()
    torch.save({"model": {}, "bomb": Bomb(tmp_path / "PWNED")}, tmp_path / "run" / "model_0000002.pth")
    with pytest.raises(CheckpointError, match=r"model_0000002\.pth.*open"):
        detectron2_engine[0](make_config(LEAVES[0], "run"), resume=True)
    assert not (tmp_path / "PWNED").exists()


@needs_detectron2
def test_fine_tuning_starts_from_the_checkpoint(make_config, detectron2_engine, tmp_path):
    train_detectron2, _ = detectron2_engine
    train(make_config(LEAVES[0], "ours", "train.max_iter=2"))
    stored = tmp_path / "ours" / "model_final.pth"
    train_detectron2(
        make_config(LEAVES[0], "tuned", f"train.init_checkpoint={stored}", "optimizer.lr=0", "train.max_iter=1")
    )
    tuned, before = weights(tmp_path / "tuned" / "model_final.pth"), weights(stored)
    name = "heads.class_embed.0.weight"
    torch.testing.assert_close(tuned[name], before[name], rtol=0, atol=0)
    assert f"Weights of {stored}" in (tmp_path / "tuned" / "log.txt").read_text()


@needs_detectron2
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("accumulate_steps=2", "train.accumulate_steps=2: detectron2's trainer"),
        ("model_ema.enabled=True", "train.model_ema.enabled=True: detectron2's trainer"),
        ("fsdp=True", "train.fsdp=True: detectron2's trainer"),
        ("hooks=[{_target_: torch.nn.Identity}]", r"train.hooks=\[.*: detectron2's trainer"),
        ("csv=True", "train.csv=True: detectron2's trainer"),
        ("patience=3", "train.patience=3: detectron2's trainer"),
        ("amp.enabled=True", "train.amp.enabled=True: .* not on cpu"),
    ],
)
def test_settings_that_detectron2s_trainer_lacks_raise(detectron2_engine, tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        detectron2_engine[0](tiny_config(tmp_path / "out", f"train.{override}"))


@needs_detectron2
@pytest.mark.parametrize(("name", "product"), [("wandb", "Weights & Biases"), ("mlflow", "MLflow")])
def test_settings_of_wandb_and_mlflow_raise(detectron2_engine, tmp_path, monkeypatch, name, product):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as if all were installed
    with pytest.raises(ConfigError, match=f"train.{name}.enabled=True: .* does not log to {product}"):
        detectron2_engine[0](tiny_config(tmp_path / "out", f"train.{name}.enabled=True"))


@needs_detectron2
def test_clipping_raises_with_a_detectron2_that_would_ignore_the_setting(detectron2_engine, tmp_path, monkeypatch):
    from detectron2.engine import HookBase

    monkeypatch.delattr(HookBase, "after_backward")
    with pytest.raises(ConfigError, match="train.clip_grad.enabled=True: .*too old"):
        detectron2_engine[0](tiny_config(tmp_path / "out", "train.clip_grad.enabled=True"))


@needs_detectron2
def test_clipping_sees_gradients_without_the_scale_of_mixed_precision(detectron2_engine, monkeypatch):
    from detectron2.engine import AMPTrainer, SimpleTrainer

    from detrex_lite.engine.detectron2_engine import ClipGradients

    def final_weights(kind, **options):
        torch.manual_seed(0)
        model = TinyDetector(dropout=0.0)
        trainer = kind(model, TinyLoader(), torch.optim.SGD(model.parameters(), lr=0.1), **options)
        trainer.register_hooks([ClipGradients(max_norm=1e-3)])
        trainer.train(0, 3)
        return model.state_dict()

    plain = final_weights(SimpleTrainer)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # AMPTrainer requires a GPU, although none is used
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    torch.testing.assert_close(final_weights(AMPTrainer, grad_scaler=scaler), plain, rtol=1e-5, atol=1e-7)


@needs_detectron2
def test_every_setting_is_supported_or_rejected():
    """Fails for a new key of `train` until `detectron2_engine.py` supports or rejects the key."""
    by_run = {"output_dir", "trust_init_checkpoint", "init_checkpoint", "device", "seed", "amp", "sync_batch_norm"}
    by_run |= {"ddp", "static_graph", "compile", "deterministic", "cudnn_benchmark", "max_iter", "max_epochs"}
    by_run |= {"activation_checkpointing", "accelerate_cpu", "init_new_parts", "trusted"}
    by_hooks = {
        "clip_grad",
        "checkpointer",
        "checkpoint_epochs",
        "eval_period",
        "eval_epochs",
        "best_metric",
        "log_period",
    }
    rejected = {"accumulate_steps", "model_ema", "fsdp", "wandb", "mlflow", "csv", "hooks", "patience"}
    assert set(get_config("common/train.py").train) == by_run | by_hooks | rejected


@needs_detectron2
def test_models_accept_the_structures_of_detectron2(shapes):
    """`Boxes` and `Instances` of detectron2 give the same losses as ours."""
    from detectron2 import structures as d2

    cfg = LazyConfig.load(LEAVES[0])
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    boxes, classes = torch.tensor([[4.0, 5, 30, 40], [20, 20, 60, 50]]), torch.tensor([0, 2])
    losses = []
    for instances_type, boxes_type in ((Instances, Boxes), (d2.Instances, d2.Boxes)):
        instances = instances_type((64, 64), gt_boxes=boxes_type(boxes), gt_classes=classes)
        losses.append(model([{"image": image, "instances": instances}]))
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)


@needs_detectron2
@pytest.mark.slow
def test_two_processes_compute_the_same_losses(shapes, tmp_path):
    launch(train_with_both, 2, device="cpu", args=(tmp_path, shapes))
    reports = [json.loads((tmp_path / f"losses_{rank}.json").read_text()) for rank in (0, 1)]
    for report in reports:
        assert len(report["detrex_lite"]) == len(report["detectron2"]) == STEPS
        for left, right in zip(report["detrex_lite"], report["detectron2"], strict=True):
            assert left == pytest.approx(right, rel=1e-5, abs=1e-5)
    assert reports[0]["detectron2"] != reports[1]["detectron2"]
    final = [weights(tmp_path / engine / "model_final.pth") for engine in ENGINES]
    torch.testing.assert_close(final[0], final[1], rtol=1e-5, atol=1e-5)
