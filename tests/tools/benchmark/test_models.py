"""Measurements of models that take milliseconds; no test depends on a duration."""

import json

import pytest
import torch

from detrex_lite.config import ConfigError
from detrex_lite.tools.benchmark.building import load_model_config, synthetic_batch
from detrex_lite.tools.benchmark.contenders import prepare_ours, prepare_transformers
from detrex_lite.tools.benchmark.errors import BenchmarkError
from detrex_lite.tools.benchmark.models import benchmark_models
from detrex_lite.tools.benchmark.settings import ModelSettings

from .configs import DETR, SMALL_DETR, TINY

CPU = torch.device("cpu")
QUICK = dict(height=64, width=96, train_height=64, train_width=64, repeats=1, warmup=1)


def test_the_report_has_a_row_per_mode_and_precision():
    settings = ModelSettings(**{**QUICK, "batch": 2, "repeats": 3}, precisions=["float32", "bf16"])
    lines = []
    report = benchmark_models([TINY], ["model.dropout=0.1"], settings, CPU, log=lines.append)
    assert [(row.mode, row.precision) for row in report.rows] == [
        (mode, precision) for mode in ("inference", "train") for precision in ("float32", "bf16")
    ]
    inference, train = report.rows[0], report.rows[2]
    # Two linear layers, 3 -> 8 -> 7, without the gradient of the input.
    assert inference.flops == 2 * 2 * (3 * 8 + 8 * 7)
    assert train.flops == 2 * 2 * (2 * 3 * 8 + 3 * 8 * 7)
    assert inference.parameters == 3 * 8 + 8 + 2 * 8 + 8 * 7 + 7
    for row in report.rows:
        assert len(row.seconds) == 3
        assert row.lowest <= row.median <= row.highest
        assert row.images_per_second == row.batch / row.median
        assert row.ratio is row.peak_memory is None
    assert len(lines) == 1
    text = str(report)
    assert "TinyDetector of detrex_lite" in text
    assert "2 x 64x96" in text
    assert "Peak resident size of the process" in text
    assert "native_layer_norm" in text
    stored = json.loads(json.dumps(report.as_json()))
    assert stored["machine"]["torch"] == torch.__version__
    assert stored["settings"]["overrides"] == ["model.dropout=0.1"]
    assert set(stored["matmul_rates"]) == {"float32", "bf16"}


def test_the_comparison_with_transformers_has_a_ratio_of_medians():
    pytest.importorskip("transformers")
    settings = ModelSettings(**QUICK, modes=["inference"], against="transformers")
    report = benchmark_models([DETR], SMALL_DETR, settings, CPU)
    detrex_lite_row, transformers_row = report.rows
    assert (detrex_lite_row.side, transformers_row.side) == ("detrex_lite", "transformers")
    assert detrex_lite_row.ratio == detrex_lite_row.median / transformers_row.median
    assert transformers_row.ratio is None
    assert detrex_lite_row.parameters == transformers_row.parameters
    assert detrex_lite_row.flops == pytest.approx(transformers_row.flops, rel=0.02)
    assert "time / theirs" in str(report)
    assert report.machine["transformers"]


def test_both_implementations_train_the_same_parameters():
    pytest.importorskip("transformers")
    cfg = load_model_config(DETR, SMALL_DETR)
    batch = synthetic_batch(2, 64, 64, num_classes=5)
    sides = [prepare(cfg)(CPU, batch, batch, 0) for prepare in (prepare_ours, prepare_transformers)]
    assert any(type(module).__name__ == "AcceleratedFFN" for module in sides[0].model.modules())
    trained = [sum(p.numel() for p in side.model.parameters() if p.requires_grad) for side in sides]
    assert trained[0] == trained[1]
    for side in sides:
        side.model.train()
        before = [p.detach().clone() for p in side.model.parameters() if p.requires_grad]
        weights = side.own_bytes(training=True)
        side.training_step(side.model, None)()
        after = [p for p in side.model.parameters() if p.requires_grad]
        assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
        assert all(p.grad is None for p in after)
        assert side.own_bytes(training=True) >= weights + 2 * 4 * trained[0]  # AdamW's two moments
        assert side.own_bytes(training=False) == weights


@pytest.mark.slow
def test_compiled_and_eager_models_are_measured():
    settings = ModelSettings(**QUICK, modes=["inference"], compile=True)
    report = benchmark_models([TINY], [], settings, CPU)
    assert [row.variant for row in report.rows] == ["eager", "compiled"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precisions": ["float32", "fp64"]}, "there is no precision 'fp64'"),
        ({"precisions": []}, "no precision is given; choices: float32, bf16"),
        ({"modes": ["training"]}, "there is no mode 'training'; did you mean 'train'"),
        ({"against": "transformer"}, "no implementation to compare with 'transformer'; did you mean 'transformers'"),
        ({"train_height": 0}, "train-height must be 1 or more, got 0"),
    ],
)
def test_invalid_settings_raise(changes, message):
    with pytest.raises(BenchmarkError, match=message):
        ModelSettings(**changes)


def test_nothing_is_measured_if_a_config_is_invalid():
    settings = ModelSettings(**QUICK, against="transformers")
    lines = []
    with pytest.raises(ConfigError, match="no config file 'nowhere.py'"):
        benchmark_models([TINY, "nowhere.py"], [], settings, CPU, log=lines.append)
    with pytest.raises(BenchmarkError, match="transformers has no model .*'TinyDetector'"):
        benchmark_models([TINY], [], settings, CPU, log=lines.append)
    with pytest.raises(BenchmarkError, match="no config is given"):
        benchmark_models([], [], settings, CPU)
    assert lines == []
