import json
import re
from importlib import import_module

import pytest

from detrex_lite.inference.description import ExportedFileError
from detrex_lite.tools.benchmark import deployment
from detrex_lite.tools.benchmark.deployment import benchmark_deployment
from detrex_lite.tools.benchmark.errors import BenchmarkError
from detrex_lite.tools.benchmark.settings import DeploySettings

from .configs import DETR as LARGE_DETR
from .configs import SMALL_DETR

main = import_module("detrex_lite.cli").main
DETR = "projects/detr/configs/models/detr_small.py"
ONE_LAYER = ["model.transformer.encoder.num_layers=1", "model.transformer.decoder.num_layers=1"]


def test_models_are_measured_with_several_runtimes(tmp_path, capsys):
    arguments = [
        "deploy",
        DETR,
        *ONE_LAYER,
        "--height",
        "64",
        "--width",
        "64",
        "--formats",
        "onnx",
        "--precision",
        "fp32",
    ]
    arguments += ["--no-compile", "--repeats", "2", "--warmup", "1", "--json", str(tmp_path / "report.json")]
    assert main(["benchmark", *arguments, "--against", "none"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.count("|") for line in table[:5]] == [11] * 5
    eager, fused, onnx = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [row["variant"] for row in (eager, fused, onnx)] == ["eager", "fused", "onnx"]
    assert eager["parameters"] == onnx["parameters"] == fused["parameters"] > 1e6
    assert onnx["scores"] <= 1e-4
    assert onnx["boxes"] <= 0.5
    assert eager["flops"] > 1e8
    assert eager["speedup"] == 1
    assert onnx["speedup"] == pytest.approx(eager["median"] / onnx["median"])
    assert len(onnx["seconds"]) == 2


@pytest.fixture
def without_exports(monkeypatch):
    """Make every export fail."""
    monkeypatch.setattr(deployment, "export", lambda *_, **__: (_ for _ in ()).throw(ExportedFileError("no package")))


def test_transformers_models_are_measured_for_comparison(without_exports):
    settings = DeploySettings(height=64, width=64, formats=["onnx"], precisions=["fp32"], compile=False, repeats=1)
    report = benchmark_deployment([LARGE_DETR], SMALL_DETR, settings)
    rows = {row.variant: row for row in report.rows}
    assert rows.keys() == {"eager", "fused", "transformers"}
    assert rows["transformers"].scores is None
    assert "other weights" in str(report)
    assert rows["eager"].against == pytest.approx(rows["transformers"].median / rows["eager"].median)
    assert "by onnx, fp32: not measured. no package" in str(report)
    report = benchmark_deployment([DETR], ONE_LAYER, settings)  # transformers has no DETR with pre-norm layers
    assert [row.against for row in report.rows] == [None, None]
    assert "by transformers: not measured" in str(report)


TINY = [
    "model.embed_dim=32",
    "model.neck.hidden_dim=32",
    "model.transformer.decoder.num_layers=2",
    "model.transformer.decoder.position_head.hidden_dim=64",
]
RTDETR = ("projects/rtdetr/configs/models/rtdetrv2_small.py", [*TINY, "model.neck.fusion.num_blocks=3"])
RTDETR_V1 = (RTDETR[0], [*RTDETR[1], "model.transformer.decoder.layer.attn[1].num_points=4"])
DFINE = ("projects/dfine/configs/models/dfine_small.py", TINY)
EAGER = DeploySettings(height=64, width=96, compile=False, repeats=1)


@pytest.mark.parametrize("model", [RTDETR, RTDETR_V1, DFINE], ids=["rtdetrv2", "rtdetr", "dfine"])
def test_transformers_models_get_the_same_weights(model, without_exports):
    pytest.importorskip("transformers", minversion="5")
    path, overrides = model
    report = benchmark_deployment([path], overrides, EAGER)
    rows = {row.variant: row for row in report.rows}
    assert rows.keys() == {"eager", "fused", "transformers"}
    assert 0 < rows["transformers"].scores <= 1e-4
    assert 0 < rows["transformers"].boxes <= 0.5
    assert rows["transformers"].parameters >= rows["eager"].parameters > rows["fused"].parameters
    assert rows["transformers"].flops > rows["fused"].flops > 1e7


def test_implementations_with_other_detections_raise(monkeypatch, without_exports):
    pytest.importorskip("transformers", minversion="5")
    monkeypatch.setattr(deployment, "copy_weights", lambda model, transformers_model: True)
    path, overrides = RTDETR
    with pytest.raises(BenchmarkError, match="by transformers: detections differ"):
        benchmark_deployment([path], overrides, EAGER)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.neck.fusion.num_blocks=1", "change model.neck.fusion.num_blocks"),
        ("model.neck.encoder=null", "change model.neck.encoder"),
        ("model.backbone.norm=GN", "model.backbone.norm=GN"),
        ("model.transformer.decoder.num_eval_layers=1", "num_eval_layers=null"),
        ("model.transformer.decoder.layer.attn[1].num_points=[1,2,3]", "equal numbers of points"),
        ("model.transformer.decoder.position_head.hidden_dim=48", "does not take the weights.*size mismatch"),
    ],
)
def test_models_that_transformers_cannot_reproduce_are_left_out(override, message, without_exports):
    pytest.importorskip("transformers", minversion="5")
    path, overrides = RTDETR
    report = benchmark_deployment([path], [*overrides, override], EAGER)
    assert [row.variant for row in report.rows] == ["eager", "fused"]
    assert re.search(message, str(report))


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        ([], None, "no model is given"),
        (["detr_r50_500epochs"], None, "neither a config file nor a published checkpoint"),
        ([DETR, DETR], "a.pth", "weights are of one model"),
    ],
)
def test_invalid_model_arguments_raise(names, weights, message):
    with pytest.raises(BenchmarkError, match=message):
        benchmark_deployment(names, [], DeploySettings(), weights=weights)


@pytest.mark.parametrize(
    "invalid_settings", [{"formats": ["torch"]}, {"precisions": ["fp64"]}, {"against": "mmdetection"}, {"height": 0}]
)
def test_invalid_settings_raise(invalid_settings):
    with pytest.raises(BenchmarkError):
        DeploySettings(**invalid_settings)
