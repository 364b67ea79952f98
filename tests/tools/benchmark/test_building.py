import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import ConfigError
from detrex_lite.tools.benchmark.building import class_name, load_model_config, synthetic_batch
from detrex_lite.tools.benchmark.errors import BenchmarkError

from .configs import DETR, TINY


def test_synthetic_batches_have_valid_objects_and_are_reproducible():
    first, second = synthetic_batch(2, 40, 60, num_classes=3), synthetic_batch(2, 40, 60, num_classes=3)
    for record, same_record in zip(first, second, strict=True):
        assert_close(record["image"], same_record["image"])
        assert record["image"].shape == (3, 40, 60)
        instances = record["instances"]
        boxes = instances.gt_boxes.tensor
        assert_close(boxes, same_record["instances"].gt_boxes.tensor)
        assert 4 <= len(boxes) <= 10
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([60.0, 40, 60, 40])).all()
        assert set(instances.gt_classes.tolist()) <= {0, 1, 2}
    assert not torch.equal(first[0]["image"], first[1]["image"])


def test_models_are_built_without_pretrained_weights():
    cfg = load_model_config("projects/detr/configs/detr_r50_300ep.py", ["model.num_queries=7"])
    assert cfg.backbone.weights is None
    assert cfg.num_queries == 7
    assert class_name(cfg) == "DETR"
    assert class_name(load_model_config(TINY)) == "TinyDetector"
    assert class_name(None) == ""


def test_invalid_configs_raise(tmp_path):
    with pytest.raises(ConfigError, match="no config file 'nowhere.py'"):
        load_model_config("nowhere.py")
    with pytest.raises(ConfigError, match="num_querys"):
        load_model_config(DETR, ["model.num_querys=3"])
    file = tmp_path / "no_model.py"
    file.write_text("train = dict(device='cpu')\n")
    with pytest.raises(BenchmarkError, match="no_model.py has no 'model'; .*train"):
        load_model_config(str(file))
