"""Training and evaluation from a config, on generated images, with the real loaders, evaluator and checkpoints."""

import json
import math
import multiprocessing
import shutil
import time

import numpy as np
import pytest
import torch

from detrex_lite.checkpoint import CheckpointError
from detrex_lite.config import ConfigError, LazyConfig, get_config, trust
from detrex_lite.config import LazyCall as L
from detrex_lite.data import DatasetError, generate_shapes
from detrex_lite.engine import Hook, LostProcessError, evaluate, train
from detrex_lite.errors import NonFiniteError
from detrex_lite.inference import Predictor
from detrex_lite.metrics_file import read_metrics

from .children import WorkerKiller
from .test_resume import assert_same_run
from .tiny import Recorder, TinyDetector, tiny_config


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=10, num_val=4, image_size=32)


@pytest.fixture
def make_config(shapes, tmp_path):
    def make(name, *overrides):
        cfg = tiny_config(tmp_path / name)
        data = get_config("common/data/shapes.py")
        cfg.dataset, cfg.dataloader = data.dataset, data.dataloader
        cfg.dataset.root = str(shapes)
        cfg.dataloader.train.total_batch_size = 3
        cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 0
        return LazyConfig.apply_overrides(cfg, overrides)

    return make


def test_a_run_writes_all_files_and_a_predictor_loads_the_result(make_config, tmp_path):
    cfg = make_config("run", "train.max_iter=null", "train.max_epochs=2", "train.model_ema.enabled=True")
    results = train(cfg)
    assert set(results["bbox"]) >= {"AP", "AP50", "APs", "AR100", "AP-circle"}
    folder = tmp_path / "run"
    present = {path.name for path in folder.iterdir()}
    assert present >= {
        "config.yaml",
        "log.txt",
        "metrics.jsonl",
        "last_checkpoint",
        "model_final.pth",
        "evaluation",
    }
    assert json.loads((folder / "evaluation" / "predictions.json").read_text())
    records = read_metrics(folder / "metrics.jsonl")
    assert [record["iteration"] for record in records] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert records[-1].keys() == {"iteration", *(f"bbox/{name}" for name in results["bbox"])}
    log = (folder / "log.txt").read_text()
    assert "shapes_train: 10 images" in log
    assert "8 steps = 2 epochs" in log
    assert "AP50" in log
    stored = torch.load(folder / "model_final.pth", weights_only=True)
    assert stored["class_names"] == ["circle", "square", "triangle"]
    assert stored["category_ids"] == [1, 2, 3]
    predictions = json.loads((folder / "evaluation" / "predictions.json").read_text())
    assert {row["file_name"] for row in predictions} <= {f"{number:06d}.png" for number in range(100)}
    trust("tests")
    predictor = Predictor(folder, device="cpu", score_threshold=0)
    assert predictor.category_ids == (1, 2, 3)
    assert len(predictor(np.zeros((32, 32, 3), np.uint8))) == 1
    assert stored["config"] == (folder / "config.yaml").read_text()


def test_the_saved_config_reproduces_the_run(make_config, tmp_path):
    train(make_config("one"))
    cfg = LazyConfig.load(str(tmp_path / "one" / "config.yaml"))
    cfg.train.output_dir = str(tmp_path / "two")
    train(cfg)
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_a_run_with_workers_is_resumed_exactly(make_config, tmp_path):
    def run(name, max_iter, resume=False):
        cfg = make_config(name, "dataloader.train.num_workers=1", f"train.max_iter={max_iter}")
        cfg.lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep  # a factor of 1 in all of these steps
        train(cfg, resume=resume)
        return [record.get("total_loss") for record in read_metrics(tmp_path / name / "metrics.jsonl")]

    whole = run("whole", max_iter=6)
    run("part", max_iter=2)
    part = run("part", max_iter=6, resume=True)
    assert part == [*whole[:2], None, *whole[2:]]  # the first part ended with an evaluation
    assert multiprocessing.active_children() == []


def test_a_killed_loader_worker_ends_training_with_the_reason(make_config, tmp_path):
    cfg = make_config("run", "dataloader.train.num_workers=2", "train.max_iter=1000")
    cfg.dataloader.train.mapper = L(WorkerKiller)(image_id=5)
    start = time.monotonic()
    with pytest.raises(LostProcessError, match=r"loads images has ended \(DataLoader worker .*memory .*num_wo"):
        train(cfg)
    assert time.monotonic() - start < 60
    assert "a process that loads images has ended" in (tmp_path / "run" / "log.txt").read_text()


def test_an_unreadable_training_image_is_left_out_and_logged(make_config, tmp_path, shapes):
    broken = shutil.copytree(shapes, tmp_path / "shapes") / "images" / "train"
    name = sorted(path.name for path in broken.iterdir())[4]
    (broken / name).write_bytes((broken / name).read_bytes()[:100])
    train(make_config("run", f"dataset.root={tmp_path / 'shapes'}"))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("Left out image 1 of at most 10") == 1
    assert f"{name} cannot be read" in log
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["iteration"] == 6
    with pytest.raises(DatasetError, match=f"{name} cannot be read"):
        train(make_config("strict", f"dataset.root={tmp_path / 'shapes'}", "+dataloader.train.max_unreadable=0"))


def test_unreadable_validation_images_are_left_out_and_logged(make_config, tmp_path, shapes):
    broken = shutil.copytree(shapes, tmp_path / "shapes") / "images" / "val"
    first, second = (broken / f"00000{number}.png" for number in (1, 3))
    first.write_bytes(first.read_bytes()[:100])
    second.unlink()
    root = f"dataset.root={tmp_path / 'shapes'}"
    results = train(make_config("run", root, "train.eval_period=3"))
    assert results["bbox"]["AP"] >= 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("Left out image") == 2
    assert f"{first.name} cannot be read" in log
    assert f"{second.name} does not exist" in log
    assert log.count("Only 2 of 4 images were processed") == 2
    with pytest.raises(DatasetError, match="2 images cannot be read .*max_unreadable=1"):
        train(make_config("strict", root, "+dataloader.test.max_unreadable=1"))


def test_validation_images_without_objects_give_an_ap_of_nan(make_config, tmp_path, shapes):
    file = shutil.copytree(shapes, tmp_path / "shapes") / "annotations" / "val.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    results = train(make_config("run", f"dataset.root={tmp_path / 'shapes'}"))
    assert math.isnan(results["bbox"]["AP"])
    assert "has no objects: AP is nan" in (tmp_path / "run" / "log.txt").read_text()
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["iteration"] == 6


def test_evaluation_reproduces_the_results_of_training(make_config, tmp_path):
    for ema in (False, True):
        results = train(make_config(f"run_{ema}", f"train.model_ema.enabled={ema}"))
        cfg = make_config("other", f"train.init_checkpoint={tmp_path}/run_{ema}/model_final.pth")
        torch.testing.assert_close(evaluate(cfg), results, rtol=0, atol=0, equal_nan=True)
    assert not (tmp_path / "other" / "config.yaml").exists()
    assert "Results:" in (tmp_path / "other" / "log.txt").read_text()


@pytest.mark.parametrize("accelerate_cpu", [True, False])
def test_models_are_accelerated_unless_accelerate_cpu_is_off(make_config, tmp_path, monkeypatch, accelerate_cpu):
    accelerated = []
    monkeypatch.setattr("detrex_lite.engine.build.accelerate", accelerated.append)
    settings = (f"train.accelerate_cpu={accelerate_cpu}", "train.max_iter=1")
    train(make_config("run", *settings))
    assert len(accelerated) == accelerate_cpu
    evaluate(make_config("other", *settings, f"train.init_checkpoint={tmp_path}/run/model_final.pth"))
    assert len(accelerated) == 2 * accelerate_cpu


def test_evaluating_without_weights_or_data_raises(make_config):
    with pytest.raises(ConfigError, match=r"set train\.init_checkpoint="):
        evaluate(make_config("run"))
    cfg = make_config("run", "train.init_checkpoint=setup.py", "dataloader.evaluator=null")
    with pytest.raises(ConfigError, match=r"no dataloader\.evaluator"):
        evaluate(cfg)


def test_evaluating_weights_of_other_classes_raises(make_config, tmp_path):
    train(make_config("run"))
    path = tmp_path / "run" / "model_final.pth"
    stored = torch.load(path, weights_only=True)
    torch.save({**stored, "class_names": ["a", "b", "c"]}, path)
    with pytest.raises(CheckpointError, match="classes a, b, c; .*circle, square"):
        evaluate(make_config("run", f"train.init_checkpoint={path}"))


def test_evaluating_incomplete_weights_raises(make_config, tmp_path):
    train(make_config("run"))
    path = tmp_path / "run" / "model_final.pth"
    stored = torch.load(path, weights_only=True)
    for name in ("model", "ema"):
        if name in stored:
            stored[name].popitem()
    torch.save(stored, path)
    with pytest.raises(CheckpointError, match=r"model_final.pth .* lacks 1 of the model's tensors"):
        evaluate(make_config("run", f"train.init_checkpoint={path}"))


def test_fine_tuning_keeps_matching_weights_and_logs_the_rest(make_config, tmp_path):
    stored = {
        "backbone.weight": torch.full((8, 3), 0.5),
        "backbone.bias": torch.zeros(8),
        "norm.weight": torch.ones(8),
        "norm.bias": torch.zeros(8),
        "head.weight": torch.zeros(95, 8),
    }
    torch.save(stored, tmp_path / "other.pth")
    arguments = f"train.init_checkpoint={tmp_path}/other.pth", "optimizer.lr=0", "train.max_iter=1"
    with pytest.raises(CheckpointError, match=r"head.weight: \(95, 8\) in the checkpoint"):
        train(make_config("run", *arguments))
    train(make_config("run", *arguments, "train.init_new_parts=[head]"))
    tuned = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    torch.testing.assert_close(tuned["backbone.weight"], stored["backbone.weight"])
    assert tuned["head.weight"].shape == (7, 8)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "head.weight: (95, 8) in the checkpoint, (7, 8) in the model" in log


def test_fine_tuning_from_another_model_raises(make_config, tmp_path):
    torch.save({"encoder.weight": torch.zeros(2, 2), "decoder.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="a different model"):
        train(make_config("run", f"train.init_checkpoint={tmp_path}/other.pth"))


def test_a_wrong_number_of_classes_leaves_no_run_folder(make_config, tmp_path):
    with pytest.raises(ConfigError, match=r"'shapes_train' has 3 classes .*model\.num_classes=3"):
        train(make_config("run", "model.num_classes=80"))
    assert not (tmp_path / "run").exists()
    train(make_config("run", "train.max_iter=1"))
    assert (tmp_path / "run" / "model_final.pth").exists()


def test_a_non_finite_loss_is_logged_and_overwrites_no_checkpoint(make_config, tmp_path):
    cfg = make_config("run", "optimizer.lr=1e30", "lr_multiplier.start_factor=1", "train.checkpointer.period=1")
    with pytest.raises(NonFiniteError, match=r"iteration \d"):
        train(cfg)
    folder = tmp_path / "run"
    assert "NonFiniteError" in (folder / "log.txt").read_text()
    for path in folder.glob("*.pth"):
        assert all(torch.isfinite(value).all() for value in torch.load(path, weights_only=True)["model"].values())


def test_training_runs_without_evaluation(make_config, tmp_path):
    cfg = make_config("run", "~dataloader.test", "~dataloader.evaluator")
    assert train(cfg) == {}
    assert "validation" not in (tmp_path / "run" / "log.txt").read_text()


def test_the_trained_model_is_compiled(make_config, tmp_path, monkeypatch):
    compiled = []

    def compile_call(call):
        compiled.append(call.__self__)
        return call

    monkeypatch.setattr(torch, "compile", compile_call)
    train(make_config("run", "train.compile=True", "train.max_iter=1"))
    assert [type(model).__name__ for model in compiled] == ["TinyDetector"]


class Scaled(Hook):
    """Multiplies the losses that are logged by a factor."""

    def __init__(self, factor):
        self.factor = factor

    def after_step(self, trainer):
        trainer.losses = {name: self.factor * value for name, value in trainer.losses.items()}


def test_hooks_of_the_config_and_of_the_call_both_run(tmp_path):
    plain, scaled = Recorder(), Recorder()
    train(tiny_config(tmp_path / "plain"), hooks=[plain])
    cfg = tiny_config(tmp_path / "scaled")
    cfg.train.hooks = [L(Scaled)(factor=2.0)]
    train(cfg, hooks=[scaled])
    assert len(plain.losses) == 6
    torch.testing.assert_close(scaled.losses, [2 * value for value in plain.losses])
    logged = [record["total_loss"] for record in read_metrics(tmp_path / "scaled/metrics.jsonl") if "lr" in record]
    torch.testing.assert_close(logged, scaled.losses)
    assert "test_run.Scaled" in (tmp_path / "scaled/config.yaml").read_text()


def test_an_object_that_is_not_a_hook_raises(tmp_path):
    cfg = tiny_config(tmp_path / "run")
    cfg.train.hooks = [L(dict)(a=1)]
    with pytest.raises(ConfigError, match=r"train\.hooks\.0 .*\{'a': 1\}.* not a detrex_lite\.engine\.Hook"):
        train(cfg)


def test_secrets_of_the_environment_are_written_to_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD", "hunter2")
    train(tiny_config(tmp_path / "run", "train.mlflow.tracking_uri=https://me:${oc.env:PASSWORD}@host/"))
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert {"config.yaml", "report.html", "model_final.pth"} <= {file.name for file in files}
    assert not [file for file in files if b"hunter2" in file.read_bytes()]


DOWNLOADED = []


class DownloadingDetector(TinyDetector):
    """Records the weights of its backbone, which a real detector would download."""

    def __init__(self, *, backbone, **arguments):
        super().__init__(**arguments)
        DOWNLOADED.append(backbone["weights"])


def test_pretrained_backbones_are_downloaded_for_new_runs_only(tmp_path):
    def config(folder, *overrides):
        cfg = tiny_config(tmp_path / folder, "+model.backbone.weights=IMAGENET1K_V1", *overrides)
        cfg.model._target_ = "tests.engine.test_run.DownloadingDetector"
        return cfg

    DOWNLOADED.clear()
    train(config("run", "train.max_iter=2"))
    train(config("run", "train.max_iter=4"), resume=True)
    evaluate(config("evaluation", f"train.init_checkpoint={tmp_path}/run/model_final.pth"))
    assert DOWNLOADED == ["IMAGENET1K_V1", None, None]
    assert LazyConfig.load(str(tmp_path / "run" / "config.yaml")).model.backbone.weights == "IMAGENET1K_V1"


def test_a_resumed_run_needs_no_initial_weights(tmp_path):
    train(tiny_config(tmp_path / "first", "train.max_iter=1"))
    weights = tmp_path / "first" / "model_final.pth"
    overrides = [f"train.init_checkpoint={weights}"]
    train(tiny_config(tmp_path / "run", "train.max_iter=1", *overrides))
    weights.unlink()
    train(tiny_config(tmp_path / "run", "train.max_iter=2", *overrides), resume=True)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["iteration"] == 2
    with pytest.raises(ConfigError, match=r"model_final\.pth: .*no such file"):
        train(tiny_config(tmp_path / "new", *overrides), resume=True)


class OddOptimizer(torch.optim.SGD):
    """From its first step on, its state has an object that a checkpoint cannot contain."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["size"] = parameter.shape


def test_an_unsavable_state_raises_after_one_step(tmp_path):
    cfg = tiny_config(tmp_path, "train.max_iter=1000", "train.checkpointer.period=500", "~optimizer.betas")
    cfg.optimizer._target_ = "tests.engine.test_run.OddOptimizer"
    with pytest.raises(ValueError, match=r"state\['optimizer'\].*\['size'\] is a torch.Size"):
        train(cfg)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["iteration"] == 1
    assert not list(tmp_path.glob(".*trial*"))


def test_a_full_disk_raises_after_one_step(tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left on device"):
        train(tiny_config(tmp_path, "train.max_iter=1000", "train.checkpointer.period=500"))
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["iteration"] == 1


def test_the_trial_of_saving_leaves_no_file(tmp_path):
    train(tiny_config(tmp_path, "train.checkpointer.period=0"))
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model_best.pth", "model_final.pth"}
    assert not list(tmp_path.glob("*trial*"))
