import subprocess
import sys

import pytest

from detrex_lite import cli
from detrex_lite.config import LazyConfig

SOURCE = """
from torch import nn
from detrex_lite.config import LazyCall as L
model = L(nn.Linear)(in_features="${size.x}", out_features=2)
size = dict(x=3)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "leaf.py"
    path.write_text(SOURCE)
    return path


def test_the_printed_yaml_loads(file, tmp_path, capsys):
    assert cli.main(["config", str(file), "size.x=5", "model.bias=false"]) == 0
    (tmp_path / "out.yaml").write_text(capsys.readouterr().out)
    cfg = LazyConfig.load(tmp_path / "out.yaml")
    assert cfg.model == {"_target_": "torch.nn.Linear", "in_features": 5, "out_features": 2, "bias": False}


def test_references_are_printed_if_asked_for(file, tmp_path, capsys):
    assert cli.main(["config", str(file), "--unresolved"]) == 0
    (tmp_path / "out.yaml").write_text(capsys.readouterr().out)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(tmp_path / "out.yaml"), ["size.x=7"])
    assert cfg.model.in_features == 7


def test_python_and_single_keys_are_printed(file, capsys):
    assert cli.main(["config", str(file), "--format", "py", "--key", "model", "size.x=4"]) == 0
    assert capsys.readouterr().out == "cfg = torch.nn.Linear(in_features=4, out_features=2)\n"
    assert cli.main(["config", str(file), "--key", "size.x"]) == 0
    assert capsys.readouterr().out == "3\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["size.y=5", "sizes.x=1"], "2 faults in the config"),
        (["--key", "modell"], "no 'modell' in the config; did you mean 'model'"),
        (["--key", "model.in_features", "size.x=${nowhere}"], "Interpolation key 'nowhere' not found"),
    ],
)
def test_faults_are_reported_without_output(file, arguments, message, capsys):
    assert cli.main(["config", str(file), *arguments]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert not output.out


def test_an_invalid_config_is_printed_with_its_faults(file, capsys):
    assert cli.main(["config", str(file), "+model.out=1", "size.x=${nowhere}"]) == 2
    output = capsys.readouterr()
    assert "in_features: ${size.x}" in output.out
    assert "model.out: torch.nn.Linear has no argument 'out'" in output.err
    assert "size.x: Interpolation key 'nowhere' not found" in output.err


def test_an_unknown_key_of_train_is_a_fault(capsys):
    assert cli.main(["config", "projects/detr/configs/detr_small_shapes.py", "+train.early_stopping=3"]) == 2
    assert "train.early_stopping is not a key of the engine" in capsys.readouterr().err


def test_errors_have_no_traceback(tmp_path):
    command = [sys.executable, "-m", "detrex_lite.config", str(tmp_path / "gone.py")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "there is no config file" in result.stderr
    assert "Traceback" not in result.stderr
