import pytest
import torch

from detrex_lite import cli
from detrex_lite.checkpoint import read_checkpoint
from detrex_lite.config import LazyConfig, get_config
from detrex_lite.data import generate_shapes

from ..engine.tiny import TinyDetector, tiny_config


def run(*arguments):
    return cli.main(["average", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    """Write three checkpoints of tiny detectors."""
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        stored = {"model": TinyDetector().state_dict(), "class_names": ["circle", "square", "triangle"]}
        paths.append(tmp_path / f"{seed}.pth")
        torch.save(stored, paths[-1])
    return paths


def test_plain_and_moving_averages_are_written(files, tmp_path, capsys):
    assert run(*files, "--output", tmp_path / "mean.pth") == 0
    average = read_checkpoint(tmp_path / "mean.pth")
    values = [read_checkpoint(path)["model"]["head.weight"] for path in files]
    torch.testing.assert_close(average["model"]["head.weight"], torch.stack(values).mean(0))
    assert average["class_names"] == ["circle", "square", "triangle"]
    assert "33.33%" in capsys.readouterr().out
    assert run(*files, "--ema", "0.5", "--output", tmp_path / "mean.safetensors") == 0
    moving_average = read_checkpoint(tmp_path / "mean.safetensors")["head.weight"]
    torch.testing.assert_close(moving_average, values[0] / 4 + values[1] / 4 + values[2] / 2)


def test_wrong_arguments_are_reported_and_write_nothing(files, tmp_path, capsys):
    output = tmp_path / "mean.pth"
    output.write_text("before")
    for arguments, message in (
        ([*files, "--output", output], "--overwrite"),
        ([*files, "--output", tmp_path / "mean.onnx"], ".safetensors"),
        ([files[0], "--output", tmp_path / "other.pth"], "at least two checkpoints"),
        ([*files, tmp_path / "absent.pth", "--output", tmp_path / "other.pth"], "absent.pth"),
        ([*files, "--greedy", "--output", tmp_path / "other.pth"], "has no config"),
    ):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
    for arguments in (["--ema", "1"], ["--ema", "0.5", "--greedy"], ["--config-file", "a.py"]):
        with pytest.raises(SystemExit, match="2"):
            run(*files, "--output", tmp_path / "other.pth", *arguments)
    assert output.read_text() == "before"
    assert not (tmp_path / "other.pth").exists()


def test_a_greedy_soup_is_chosen_by_evaluation(files, tmp_path, capsys):
    data = get_config("common/data/shapes.py")
    config = tiny_config(tmp_path / "run")
    config.dataset, config.dataloader = data.dataset, data.dataloader
    config.dataset.root = str(generate_shapes(tmp_path / "shapes", num_train=2, num_val=3, image_size=32))
    config.dataloader.test.num_workers = 0
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    assert run(*files, "--greedy", "--trust", "tests", "--output", tmp_path / "soup.pth") == 0
    out = capsys.readouterr().out
    assert out.count(" alone: ") == 3
    shares = [part["share"] for part in read_checkpoint(tmp_path / "soup.pth")["average_of"]]
    assert sum(shares) == pytest.approx(1)
    assert (tmp_path / "soup_evaluation" / "evaluation").is_dir()
