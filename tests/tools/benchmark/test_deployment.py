import json
from importlib import import_module

import pytest

from detrex_lite.inference.description import ExportedFileError
from detrex_lite.tools.benchmark import BenchmarkError, deployment
from detrex_lite.tools.benchmark.deployment import DeploySettings, benchmark_deployment

from .configs import DETR as LARGE_DETR
from .configs import SMALL_DETR

main = import_module("detrex_lite.tools.benchmark.__main__").main
DETR = "projects/detr/configs/models/detr_small.py"
FEW = ["model.transformer.encoder.num_layers=1", "model.transformer.decoder.num_layers=1"]


def test_models_are_measured_by_several_runtimes_in_turns(tmp_path, capsys):
    arguments = ["deploy", DETR, *FEW, "--height", "64", "--width", "64", "--formats", "onnx", "--precision", "fp32"]
    arguments += ["--no-compile", "--repeats", "2", "--warmup", "1", "--json", str(tmp_path / "report.json")]
    assert main([*arguments, "--against", "none"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.count("|") for line in table[:4]] == [9, 9, 9, 9]
    eager, onnx = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert (eager["variant"], onnx["variant"]) == ("eager", "onnx")
    assert eager["parameters"] == onnx["parameters"] > 1e6
    assert eager["flops"] > 1e8
    assert eager["speedup"] == 1
    assert onnx["speedup"] == pytest.approx(eager["median"] / onnx["median"])
    assert len(onnx["seconds"]) == 2


def test_other_implementations_are_measured_beside(monkeypatch):
    monkeypatch.setattr(deployment, "export", lambda *_, **__: (_ for _ in ()).throw(ExportedFileError("no package")))
    settings = DeploySettings(height=64, width=64, formats=["onnx"], precisions=["fp32"], compile=False, repeats=1)
    report = benchmark_deployment([LARGE_DETR], SMALL_DETR, settings)
    rows = {row.variant: row for row in report.rows}
    assert rows.keys() == {"eager", "transformers"}
    assert rows["eager"].against == pytest.approx(rows["transformers"].median / rows["eager"].median)
    assert "by onnx, fp32: not measured. no package" in str(report)
    report = benchmark_deployment([DETR], FEW, settings)  # transformers has none with norms in front
    assert [row.against for row in report.rows] == [None]
    assert "by transformers: not measured" in str(report)


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        ([], None, "no model is given"),
        (["detr_r50_500epochs"], None, "neither a config file nor a published checkpoint"),
        ([DETR, DETR], "a.pth", "weights are of one model"),
    ],
)
def test_what_cannot_be_measured_is_refused(names, weights, message):
    with pytest.raises(BenchmarkError, match=message):
        benchmark_deployment(names, [], DeploySettings(), weights=weights)


@pytest.mark.parametrize(
    "wrong", [{"formats": ["torch"]}, {"precisions": ["fp64"]}, {"against": "mmdetection"}, {"height": 0}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(BenchmarkError):
        DeploySettings(**wrong)
