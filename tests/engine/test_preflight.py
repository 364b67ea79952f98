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


@pytest.mark.parametrize("file_name", ["last_checkpoint", "model_0000002.pth", "metrics.jsonl"])
def test_each_file_of_another_run_raises(tmp_path, file_name):
    (tmp_path / file_name).write_text('{"iteration": 1}')
    check_output_dir(tmp_path, resume=True)
    with pytest.raises(ConfigError, match=rf"another run \({file_name}\).*--resume"):
        check_output_dir(tmp_path, resume=False)


def test_logs_of_a_failed_start_and_missing_folders_are_accepted(tmp_path):
    for name in ("log.txt", "config.yaml", "metrics.jsonl"):  # as after a failure in the first step
        (tmp_path / name).touch()
    (tmp_path / "evaluation").mkdir()
    check_output_dir(tmp_path, resume=False)
    check_output_dir(tmp_path / "new", resume=False)


@pytest.mark.parametrize("name", ["last_checkpoint", "metrics.jsonl", "config.yaml", "log.txt"])
def test_a_folder_with_the_name_of_an_output_file_raises(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} in it is a folder"):
        check_output_dir(tmp_path, resume=True)


def test_initial_weights_must_be_a_local_file(tmp_path):
    check_init_checkpoint("")
    check_init_checkpoint(None)
    (tmp_path / "model.pth").touch()
    for path in (tmp_path / "model.pth", str(tmp_path / "model.pth")):
        check_init_checkpoint(path, required=True)
    check_init_checkpoint(str(tmp_path))  # a model that Hugging Face's libraries saved
    for address in ("detectron2://ImageNetPretrained/R-50.pkl", "https://example.com/x.pth"):
        with pytest.raises(ConfigError, match="addresses .*download"):
            check_init_checkpoint(address)
    with pytest.raises(ConfigError, match=r"nowhere\.pth: .*no such file"):
        check_init_checkpoint("nowhere.pth")
    with pytest.raises(ConfigError, match=r"needs weights.*train\.init_checkpoint="):
        check_init_checkpoint("", required=True)


def test_matching_classes_are_returned():
    names = check_classes(TinyDetector(num_classes=2), {"training": dataset("a", "b"), "validation": dataset("a", "b")})
    assert names == ("a", "b")


def test_a_model_with_another_number_of_classes_raises():
    with pytest.raises(
        ConfigError,
        match=r"model\.num_classes=80.* 'cells' has 2 classes \(a, b\).*model\.num_classes=2",
    ):
        check_classes(TinyDetector(num_classes=80), {"training": dataset("a", "b"), "validation": None})


@pytest.mark.parametrize(
    ("validation", "difference"),
    [
        (("b", "a"), "0: 'a' and 'b', 1: 'b' and 'a'"),
        (("a",), r"2 \(a, b\) and 1 \(a\)"),
    ],
)
def test_data_sets_with_different_classes_raise(validation, difference):
    with pytest.raises(ConfigError, match=f"training and validation.* different classes: {difference}"):
        check_classes(TinyDetector(num_classes=2), {"training": dataset("a", "b"), "validation": dataset(*validation)})


def test_without_a_data_set_no_classes_are_checked():
    assert check_classes(TinyDetector(), {"training": None}) == ()


def test_processes_with_different_configs_or_data_raise(monkeypatch):
    def gather_from(*other_values):
        monkeypatch.setattr("detrex_lite.distributed.all_gather_objects", lambda value: [value, *other_values])

    images = FiveImages()
    sizes = {"training": "5 images, 7 boxes"}
    gather_from(("lr: 1\nseed: 0", sizes))
    check_agreement("lr: 1\nseed: 0", {"training": images, "validation": None})
    gather_from(("lr: 1\nseed: 0", sizes), ("lr: 2\nseed: 0", sizes))
    with pytest.raises(ConfigError, match=r"process 2 .*config.*process 0:\n  -lr: 1\n  \+lr: 2$"):
        check_agreement("lr: 1\nseed: 0", {"training": images})
    gather_from(("lr: 1", {"training": "4 images, 7 boxes"}))
    with pytest.raises(ConfigError, match=r"process 1 .*training set.* process 0: 4 images, 7 boxes.* 5 images, 7"):
        check_agreement("lr: 1", {"training": images})


class FiveImages:
    num_boxes = 7

    def __len__(self):
        return 5


def test_try_evaluation_uses_one_batch_and_no_random_numbers():
    class ImageCounter(CountingEvaluator):
        total = 0

        def process(self, inputs, outputs):
            super().process(inputs, outputs)
            ImageCounter.total += len(inputs)

    model = TinyDetector()
    evaluator = ImageCounter()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    try_evaluation(model, TinyLoader(batch_size=3), evaluator)
    assert torch.rand(1) == expected
    assert ImageCounter.total == 3
    assert evaluator.processed == 0
    assert model.training


def test_a_failing_try_evaluation_is_logged(caplog):
    class Broken(CountingEvaluator):
        def process(self, inputs, outputs):
            raise KeyError("image_id")

    with pytest.raises(KeyError, match="image_id"):
        try_evaluation(TinyDetector(), TinyLoader(), Broken())
    assert "Evaluating one batch before the start" in caplog.text


def test_an_unknown_best_metric_raises_and_suggests_the_nearest():
    cells = SimpleNamespace(
        image_ids=[], category_ids=[1], class_names=("cell",), has_annotations=True, segmentations=None
    )
    with pytest.raises(ConfigError, match=r"train\.best_metric='bbox/APP' .*'bbox/AP'\?"):
        check_best_metric(CocoEvaluator(dataset=cells), "bbox/APP")
    with pytest.raises(ConfigError, match="did you mean 'bbox/AP-cell'"):
        check_best_metric(CocoEvaluator(dataset=cells), "bbox/AP-cel")
    for name in ("bbox/AP-cell", None):
        check_best_metric(CocoEvaluator(dataset=cells), name)
    check_best_metric(CountingEvaluator(), "mine/F1")


def test_saved_configs_contain_no_secrets_and_no_trust(monkeypatch, caplog):
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


def test_a_target_that_cannot_be_saved_is_logged(caplog):
    class Local(TinyDetector):
        pass

    cfg = tiny_config("out")
    cfg.model._target_ = Local
    assert "_target_: ???" in text_to_save(cfg)
    assert "cannot hold model._target_" in caplog.text
