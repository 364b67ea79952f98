import json

import pytest
import torch

from detrex_lite import cli
from detrex_lite.commands import export
from detrex_lite.config import LazyConfig
from detrex_lite.inference.export import ExportError
from detrex_lite.testing import build

CONFIG = "projects/detr/configs/models/detr_small.py"
ONE_LAYER = ["model.transformer.encoder.num_layers=1", "model.transformer.decoder.num_layers=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Write the weights of a small detector; returns the arguments that name config and weights."""
    weights = tmp_path_factory.mktemp("trained") / "model.pth"
    cfg = LazyConfig.apply_overrides(LazyConfig.load(CONFIG), [*ONE_LAYER, "model.backbone.weights=null"])
    names = [f"thing {number}" for number in range(80)]
    torch.save({"model": build(cfg.model).state_dict(), "class_names": names}, weights)
    return ["--config-file", CONFIG, "--weights", str(weights), "--opts", *ONE_LAYER]


def test_the_exported_file_is_described_with_its_size_and_classes(trained, tmp_path, capsys):
    path = tmp_path / "detector.torchscript"
    assert cli.main(["export", "--output", str(path), "--size", "64x96", "--batch", "2", *trained]) == 0
    text = capsys.readouterr().out
    assert "DETR as torchscript, fp32, 2 image(s) of 64x96" in text
    assert text.count("64x96") == 4  # for the file, two checks and the latency
    stored = {"detrex_lite": ""}
    torch.jit.load(str(path), _extra_files=stored)
    assert json.loads(stored["detrex_lite"])["class_names"][1] == "thing 1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onyx"], "did you mean 'onnx'"),
        (["--size", "64x"], "HEIGHTxWIDTH"),
        (["--batch", "many"], "batch='many'"),
        (["--score-limit", "-1", "--size", "64"], "does not detect what DETR detects"),
    ],
)
def test_failed_exports_are_reported_and_leave_no_file(trained, tmp_path, capsys, arguments, message):
    assert cli.main(["export", "--output", str(tmp_path / "detector.torchscript"), *arguments, *trained]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--config-file", "a.py"], ["--model", "a", "--config-file", "b.py"]])
def test_exactly_one_model_must_be_given(arguments):
    with pytest.raises(SystemExit):
        cli.main(["export", "--output", "a.onnx", *arguments])


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("640", 640), ("480x640", (480, 640)), ("dynamic", "dynamic")]
)
def test_sizes_are_parsed(text, size):
    assert export.parse_size(text) == size
    with pytest.raises(ExportError, match="size"):
        export.parse_size("small")
