from types import SimpleNamespace

import pytest
import torch

from detrex_lite.config import ConfigError
from detrex_lite.engine.preflight import (
    check_agreement,
    check_best_metric,
    check_classes,
    check_init_checkpoint,
    check_output_dir,
    text_to_save,
    try_evaluation,
)
from detrex_lite.evaluation import CocoEvaluator

from .tiny import CountingEvaluator, TinyDetector, TinyLoader, tiny_config


def dataset(*names):
    return SimpleNamespace(name="cells", class_names=names)


@pytest.mark.parametrize("trace", ["last_checkpoint", "model_0000002.pth", "metrics.jsonl"])
def test_each_trace_of_another_run_is_enough(tmp_path, trace):
    (tmp_path / trace).write_text('{"iteration": 1}')
    check_output_dir(tmp_path, resume=True)
    with pytest.raises(ConfigError, match=rf"holds another run \({trace}\): continue it with --resume"):
        check_output_dir(tmp_path, resume=False)


def test_other_files_and_missing_folders_are_fine(tmp_path):
    for name in ("log.txt", "config.yaml", "metrics.jsonl"):  # as after a failure in the first step
        (tmp_path / name).touch()
    (tmp_path / "evaluation").mkdir()
    check_output_dir(tmp_path, resume=False)
    check_output_dir(tmp_path / "new", resume=False)


@pytest.mark.parametrize("name", ["last_checkpoint", "metrics.jsonl", "config.yaml", "log.txt"])
def test_a_folder_where_a_file_is_to_be_written(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} in it is a folder"):
        check_output_dir(tmp_path, resume=True)


def test_initial_weights_are_a_local_file(tmp_path):
    check_init_checkpoint("")
    check_init_checkpoint(None)
    (tmp_path / "model.pth").touch()
    for path in (tmp_path / "model.pth", str(tmp_path / "model.pth")):
        check_init_checkpoint(path, required=True)
    check_init_checkpoint(str(tmp_path))  # a model that Hugging Face's libraries saved
    for address in ("detectron2://ImageNetPretrained/R-50.pkl", "https://example.com/x.pth"):
        with pytest.raises(ConfigError, match="addresses are not read; download the file"):
            check_init_checkpoint(address)
    with pytest.raises(ConfigError, match=r"nowhere\.pth: there is no such file"):
        check_init_checkpoint("nowhere.pth")
    with pytest.raises(ConfigError, match=r"evaluation needs weights: set train\.init_checkpoint="):
        check_init_checkpoint("", required=True)


def test_classes_that_agree_are_returned():
    names = check_classes(TinyDetector(num_classes=2), {"training": dataset("a", "b"), "validation": dataset("a", "b")})
    assert names == ("a", "b")


def test_a_model_with_another_number_of_classes_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"model\.num_classes=80, but the training set 'cells' has 2 classes \(a, b\): set model\.num_classes=2",
    ):
        check_classes(TinyDetector(num_classes=80), {"training": dataset("a", "b"), "validation": None})


@pytest.mark.parametrize(
    ("validation", "difference"),
    [
        (("b", "a"), "0: 'a' and 'b', 1: 'b' and 'a'"),
        (("a",), r"2 \(a, b\) and 1 \(a\)"),
    ],
)
def test_data_sets_with_different_classes_are_refused(validation, difference):
    with pytest.raises(ConfigError, match=f"training and validation sets have different classes: {difference}"):
        check_classes(TinyDetector(num_classes=2), {"training": dataset("a", "b"), "validation": dataset(*validation)})


def test_unknown_data_sets_are_not_compared():
    assert check_classes(TinyDetector(), {"training": None}) == ()


def test_processes_that_train_different_things_are_refused(monkeypatch):
    def gathered(*others):
        monkeypatch.setattr("detrex_lite.distributed.all_gather_objects", lambda mine: [mine, *others])

    images = FiveImages()
    sizes = {"training": "5 images, 7 boxes"}
    gathered(("lr: 1\nseed: 0", sizes))
    check_agreement("lr: 1\nseed: 0", {"training": images, "validation": None})
    gathered(("lr: 1\nseed: 0", sizes), ("lr: 2\nseed: 0", sizes))
    with pytest.raises(ConfigError, match=r"process 2 has another config than process 0:\n  -lr: 1\n  \+lr: 2$"):
        check_agreement("lr: 1\nseed: 0", {"training": images})
    gathered(("lr: 1", {"training": "4 images, 7 boxes"}))
    with pytest.raises(
        ConfigError, match=r"process 1 has another training set than process 0: 4 images, 7 boxes, and not 5 images, 7"
    ):
        check_agreement("lr: 1", {"training": images})


class FiveImages:
    num_boxes = 7

    def __len__(self):
        return 5


def test_a_trial_shows_one_batch_and_draws_nothing():
    class Watching(CountingEvaluator):
        total = 0

        def process(self, inputs, outputs):
            super().process(inputs, outputs)
            Watching.total += len(inputs)

    model = TinyDetector()
    evaluator = Watching()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    try_evaluation(model, TinyLoader(batch_size=3), evaluator)
    assert torch.rand(1) == expected
    assert Watching.total == 3
    assert evaluator.processed == 0
    assert model.training


def test_a_trial_that_fails_says_what_it_was(caplog):
    class Broken(CountingEvaluator):
        def process(self, inputs, outputs):
            raise KeyError("image_id")

    with pytest.raises(KeyError, match="image_id"):
        try_evaluation(TinyDetector(), TinyLoader(), Broken())
    assert "Evaluating one batch before the start of training failed" in caplog.text


def test_a_best_metric_that_the_evaluation_does_not_give():
    cells = SimpleNamespace(
        image_ids=[], category_ids=[1], class_names=("cell",), has_annotations=True, segmentations=None
    )
    with pytest.raises(ConfigError, match=r"train\.best_metric='bbox/APP' is not a result .*did you mean 'bbox/AP'\?"):
        check_best_metric(CocoEvaluator(dataset=cells), "bbox/APP")
    with pytest.raises(ConfigError, match="did you mean 'bbox/AP-cell'"):
        check_best_metric(CocoEvaluator(dataset=cells), "bbox/AP-cel")
    for name in ("bbox/AP-cell", None):
        check_best_metric(CocoEvaluator(dataset=cells), name)
    check_best_metric(CountingEvaluator(), "mine/F1")


def test_what_is_saved_keeps_secrets_and_trust_out(monkeypatch, caplog):
    monkeypatch.setenv("PASSWORD", "hunter2")
    cfg = tiny_config(
        "out", "train.mlflow.tracking_uri=https://me:${oc.env:PASSWORD}@host/", "train.seed=${train.max_iter}"
    )
    cfg.train.trust_init_checkpoint = True
    text = text_to_save(cfg)
    assert "hunter2" not in text
    assert "${oc.env:PASSWORD}" in text
    assert "seed: 6" in text
    assert "dataset:" not in text
    assert "trust_init_checkpoint: false" in text
    assert cfg.train.trust_init_checkpoint is True
    assert not caplog.text


def test_a_config_that_will_not_load_again_is_said(caplog):
    class Local(TinyDetector):
        pass

    cfg = tiny_config("out")
    cfg.model._target_ = Local
    assert "_target_: ???" in text_to_save(cfg)
    assert "config.yaml will not load again: it cannot hold model._target_" in caplog.text
