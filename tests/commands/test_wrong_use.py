"""At least ten wrong uses of each command exit with status 2 and a message that says what to do."""

from pathlib import Path

import pytest

from detrex_lite import cli

CONFIG = "projects/dino/configs/dino_small_shapes.py"
DETECTOR = ["--config-file", CONFIG, "--weights", "setup.py"]

CASES = {
    "train": [
        ([], "detrex-lite train dino --data FOLDER"),
        (["dinoo", "--data", "."], "did you mean 'dino'?"),
        (["dino", "--data", "no/such/folder"], "--data no/such/folder: there is no such folder"),
        (["dino", "--data", "projcts"], "did you mean 'projects'?"),
        (["dino", "dfine", "--data", "."], "expected one model, got 2"),
        (["dino", "--config-file", CONFIG], "both name a model"),
        (["dino", "--epochs", "many"], "--epochs: 'many' must be a whole number from 1"),
        (["dino", "--batch", "0"], "--batch: '0' must be a whole number from 1"),
        (["dino", "--lr", "-1"], "--lr: '-1' must be a number above 0"),
        (["dino", "--imgsz", "640"], "--imgsz: did you mean --size?"),
        (["dino", "--max-epochs", "3"], "--max-epochs: did you mean --epochs?"),
        (["dino", "train.max_itr=3"], "did you mean 'train.max_iter'"),
        (["dino_small", "--device", "gpu"], "device must be"),
        (["dino_small", "--fine-tune"], "no weights were published for dino_small"),
        (["dino_small", "--fine-tune", "dino_r51"], "no published checkpoint 'dino_r51'"),
        (["dino_small", "--fine-tune", "absent.pth"], "--fine-tune absent.pth: there is no such file"),
        (["projects"], "projects is a folder"),
        (["auto"], "by --data FOLDER"),
        (["no.py"], "there is no config file 'no.py'"),
        (["dino", "--engine", "mmdet"], "invalid choice: 'mmdet'"),
        (["dino", "--data"], "expected one argument"),
        (["dino", "--data", "tests/cli"], "no data set"),
    ],
    "evaluate": [
        ([], "--weights"),
        (["--weights", "absent.pth"], "absent.pth"),
        (["absent.pth"], "--weights"),
        (["--weights", "setup.py", "x"], "x is not an override (KEY=VALUE)"),
        (["--weights", "absent/"], "absent"),
        (["--weights", "setup.py", "--config-file", "absent.py"], "absent.py"),
        (["--weights", "setup.py", "--data", "absent"], "--data absent: there is no such folder"),
        (["--weights", "setup.py", "--split", "all"], "invalid choice: 'all'"),
        (["--weights", "setup.py", "--engine", "mmdet"], "invalid choice: 'mmdet'"),
        (["--weights", "setup.py", "--ckpt", "b.pth"], "--ckpt: did you mean --weights?"),
        (["--weights", "projects"], "projects is not the folder of a training run"),
        (["--weights", "setup.py", "--num-gpus", "two"], "invalid int value: 'two'"),
    ],
    "predict": [
        ([], "PATH"),
        (["photo.jpg"], "--weights"),
        (["--model", "dino"], "PATH"),
        (["absent.jpg", "--model", "dino_r50_4scale_12ep"], "absent.jpg does not exist"),
        (["docs/demo.png", "--model", "yolo"], "no published checkpoint 'yolo'"),
        (["docs/demo.png", "--model", "a", "--config-file", CONFIG], "--model has its own config"),
        (["docs/demo.png", "--config-file", "absent.py", "--weights", "setup.py"], "absent.py"),
        (["docs/demo.png", "--config-file", CONFIG, "--weights", "absent.pth"], "absent.pth"),
        (["docs/demo.png", *DETECTOR, "--score-threshold", "high"], "invalid float value: 'high'"),
        (["docs/demo.png", *DETECTOR, "--batch-size", "0"], "batch_size"),
        (["docs/demo.png", *DETECTOR, "--source", "a"], "--source: did you mean PATH, without an option?"),
        (["docs/demo.png", *DETECTOR, "--device", "gpu"], "device must be"),
        (["docs/demo.png", *DETECTOR, "--opts", "model.num_clases=2"], "num_classes"),
    ],
    "export": [
        ([], "--output"),
        (["--output", "a.onnx"], "--weights"),
        (["--output", "a.onnx", "--model", "yolo"], "no published checkpoint 'yolo'"),
        (["--output", "a.onnx", "--config-file", CONFIG, "--weights", "absent.pth"], "absent.pth"),
        (["--output", "a.onnx", "--config-file", "absent.py", "--weights", "setup.py"], "absent.py"),
        (["--output", "a.onnx", "--model", "a", "--config-file", CONFIG], "--model has its own config"),
        (["--output", "a.onnx", *DETECTOR, "--opset", "new"], "invalid int value: 'new'"),
        (["--output", "a.onnx", *DETECTOR, "--score-limit", "small"], "invalid float value: 'small'"),
        (["--output", "a.onnx", *DETECTOR, "--imgsz", "640"], "--imgsz: did you mean --size?"),
        (["--output", "a.onnx", *DETECTOR, "--batch", "many"], "batch='many'"),
        (["--output", "a.onnx", *DETECTOR, "--size", "64x"], "HEIGHTxWIDTH"),
        (["a.onnx", *DETECTOR], "--output"),
    ],
    "zoo": [
        ([], "COMMAND"),
        (["lst"], "invalid choice: 'lst'"),
        (["list", "yolo"], "no published checkpoint 'yolo'"),
        (["list", "dinoo"], "did you mean 'dino'?"),
        (["download"], "NAME"),
        (["download", "yolo"], "no published checkpoint 'yolo'"),
        (["evaluate"], "NAME"),
        (["evaluate", "dino", "--weights", "setup.py"], "--weights is the file of a single checkpoint"),
        (["evaluate", "dino_r50_4scale_12ep", "--trust", "a-b"], "'a-b' is not the name of a package"),
        (["--table", "absent.py", "list"], "there is no table of checkpoints"),
        (["list", "--all"], "--all"),
    ],
    "check": [
        (["absent"], "absent"),
        (["--coco", "absent.json"], "detrex-lite check: error: annotation file absent.json"),
        (["--coco", "a.json", "--layout", "yolo"], "--layout goes with FOLDER"),
        (["--coco", "a.json", "--images", "i", "--segments", "s"], "--segments goes with --panoptic"),
        (["--voc", "a", "--images", "i", "--masks"], "--masks"),
        (["--coco", "a.json", "--images", "i", "--split", "s"], "--split and --one-based go with --voc"),
        (["--coco", "a.json", "--voc", "b", "--images", "i"], "not allowed with"),
        (["--panoptic", "a.json"], "--images"),
        (["--coco"], "expected one argument"),
        (["--yolo", "a"], "--yolo"),
        (["a", "b"], "b"),
    ],
    "config": [
        ([], "FILE"),
        (["absent.py"], "there is no config file 'absent.py'"),
        (["dinoo"], "did you mean 'dino'?"),
        ([CONFIG, "--format", "json"], "invalid choice: 'json'"),
        ([CONFIG, "--key", "modell"], "did you mean 'model'?"),
        ([CONFIG, "model.num_clases=3"], "num_classes"),
        ([CONFIG, "train.max_itr=3"], "max_iter"),
        ([CONFIG, "dino"], "expected one model, got 2"),
        ([CONFIG, "--trust", "a-b"], "'a-b' is not the name of a package"),
        (["setup.cfg"], "setup.cfg"),
        (["dino", "--data", "absent"], "--data absent: there is no such folder"),
        ([CONFIG, "--keys", "model"], "--keys: did you mean --key?"),
    ],
    "report": [
        ([], "folder"),
        (["absent"], "absent is not the folder of a run"),
        (["setup.py"], "setup.py is not the folder of a run"),
        (["projects"], "projects is not the folder of a run"),
        (["a", "b"], "unrecognized arguments: b"),
        (["projects", "--out"], "expected one argument"),
        (["projects", "--ot", "x"], "--ot: did you mean --out?"),
        (["projects", "--save-dir", "x"], "--save-dir: did you mean --out?"),
        (["projects", "--html"], "unrecognized arguments: --html"),
        (["--out", "x.html"], "folder"),
    ],
    "benchmark": [
        ([], "WHAT"),
        (["speed"], "invalid choice: 'speed'"),
        (["model"], "CONFIG"),
        (["model", "absent.py"], "there is no config file 'absent.py'"),
        (["model", CONFIG, "--batch", "many"], "invalid int value: 'many'"),
        (["model", CONFIG, "--json", "absent/a.json"], "there is no folder"),
        (["model", CONFIG, "--size", "640"], "--size"),
        (["model", CONFIG, "--device", "gpu"], "device must be"),
        (["op", "attention"], "invalid choice: 'attention'"),
        (["analyze", CONFIG, "--height", "0"], "height must be 1 or more"),
        (["analyze", CONFIG, "model.num_clases=1"], "num_classes"),
    ],
    "convert-checkpoint": [
        ([], "--config-file"),
        (["--config-file", CONFIG, "--weights", "setup.py"], "--output"),
        (["--config-file", CONFIG, "--output", "b.pth"], "--weights"),
        ([*DETECTOR, "--output", "b.zip"], ".safetensors"),
        ([*DETECTOR, "--output", "setup.py"], "setup.py"),
        (["--config-file", CONFIG, "--weights", "absent.pth", "--output", "b.pth"], "absent.pth"),
        (["--config-file", "absent.py", "--weights", "setup.py", "--output", "b.pth"], "absent.py"),
        ([*DETECTOR, "--output", "b.pth", "--format", "detr"], "--format"),
        ([*DETECTOR, "--output", "b.pth", "model.num_clases=2"], "num_classes"),
        ([*DETECTOR, "--output", "b.pth", "--trust", "a-b"], "'a-b' is not the name of a package"),
    ],
    "demo": [
        (["--masks", "--config-file", CONFIG], "--masks has its own config"),
        (["--config-file", "absent.py"], "absent.py"),
        (["--output", "projects"], "was not written by this demo"),
        (["--output", "setup.py"], "was not written by this demo"),
        (["--output"], "expected one argument"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--quik"], "--quik: did you mean --quick?"),
        (["train.max_itr=3"], "max_iter"),
        (["model.num_clases=3"], "num_classes"),
        (["--trust", "a-b"], "'a-b' is not the name of a package"),
        (["--save-dir", "x"], "--save-dir: did you mean --output?"),
    ],
    "average": [
        ([], "--output"),
        (["a.pth"], "--output"),
        (["--output", "b.pth"], "FILE"),
        (["absent.pth", "other.pth", "--output", "b.pth"], "absent.pth"),
        (["a.pth", "--output", "b.pth", "--ema", "2"], "--ema 2"),
        (["a.pth", "--output", "b.pth", "--ema", "x"], "invalid float value: 'x'"),
        (["a.pth", "--output", "b.pth", "--ema", "0.5", "--greedy"], "not allowed with"),
        (["a.pth", "--output", "b.pth", "--config-file", CONFIG], "--config-file and --opts require --greedy"),
        (["a.pth", "--output", "b.pth", "--opts", "train.seed=1"], "--config-file and --opts require --greedy"),
        (["absent.pth", "other.pth", "--output", "b.zip"], "b.zip"),
        (["a.pth", "--out", "b.pth"], "--output"),
    ],
    "new": [
        ([], "--from"),
        (["my_detr"], "--from"),
        (["my_detr", "--from", "dinoo"], "did you mean 'dino'?"),
        (["my detr", "--from", "dino"], "my detr"),
        (["1detr", "--from", "dino"], "1detr"),
        (["my_detr", "--from"], "expected one argument"),
        (["--from", "dino"], "NAME"),
        (["my_detr", "your_detr", "--from", "dino"], "your_detr"),
        (["my_detr", "--from", "dino", "--folder", "x"], "--folder"),
        (["class", "--from", "dino"], "class"),
    ],
    "convert": [
        ([], "--to"),
        (["tests", "--to", "coco"], "OUT"),
        (["tests", "out"], "--to"),
        (["tests", "out", "--to", "pascal"], "invalid choice: 'pascal'"),
        (["absent", "out", "--to", "coco"], "absent"),
        (["tests/cli", "out", "--to", "coco"], "no data set"),
        (["tests/cli", "projects", "--to", "coco"], ""),
        (["tests", "out", "more", "--to", "coco"], "more"),
        (["tests", "out", "--to"], "expected one argument"),
        (["tests", "out", "--format", "coco"], "--to"),
    ],
    "completion": [
        ([], "shell"),
        (["bsh"], "invalid choice: 'bsh'"),
        (["BASH"], "invalid choice: 'BASH'"),
        (["powershell"], "invalid choice: 'powershell'"),
        (["bash", "zsh"], "unrecognized arguments: zsh"),
        (["--bash"], "shell"),
        (["--shell", "bash"], "--shell"),
        (["bash", "--install"], "unrecognized arguments: --install"),
        (["fish", "-o"], "-o"),
        (["fish", "x=y"], "x=y"),
    ],
    "env": [
        (["x"], "unrecognized arguments: x"),
        (["--jsn"], "--jsn: did you mean --json?"),
        (["--json", "x"], "unrecognized arguments: x"),
        (["--json=1"], "--json"),
        (["-q"], "-q"),
        (["--verbose"], "unrecognized arguments: --verbose"),
        (["--output", "a"], "--output"),
        (["a=b"], "a=b"),
        (["torch"], "torch"),
        (["--json", "--yaml"], "--yaml"),
    ],
}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("DETREX_CACHE", str(tmp_path))
    monkeypatch.setattr("detrex_lite.checkpoint.downloading.urlopen", None, raising=False)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [(command, *case) for command, cases in CASES.items() for case in cases],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_exits_with_status_2_and_a_message(command, arguments, message, capsys):
    try:
        status = cli.main([command, *arguments])
    except SystemExit as exit_error:
        status = exit_error.code
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert status == 2


def test_every_command_has_at_least_ten_cases():
    assert {command for command in cli.COMMANDS if len(CASES.get(command, ())) < 10} == set()
