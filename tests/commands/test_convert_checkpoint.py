import pytest
import torch
from torch.testing import assert_close

from detrex_lite import cli
from detrex_lite.checkpoint import convert_state_dict, read_checkpoint
from detrex_lite.config import LazyConfig
from detrex_lite.testing import build_randomised

SMALL = """
from detrex_lite.config import get_config
from detrex_lite.testing import SMALL, changed

cfg = get_config("projects/{project}/configs/models/{project}_r50.py").model
model = changed(cfg, {{**SMALL, "num_classes": {classes}, "backbone.weights": "DEFAULT", **{changes}}})
"""

# project -> (changes of its config, a foreign format, the entry of that format's files)
DETECTORS = {
    "dab_detr": ({}, "mmdetection", "state_dict"),
    "deformable_detr": ({"with_box_refine": True, "as_two_stage": True}, "detrex", "model"),
    "dino": ({}, "dino", "model"),
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a small detector's config, and its weights in a format.

    The function returns both paths, and the weights in our format.
    """

    def write_detector(project, target="detrex_lite", classes=80, name="in.pth", **other_entries):
        config = tmp_path / f"{project}.py"
        config.write_text(SMALL.format(project=project, classes=classes, changes=DETECTORS.get(project, ({},))[0]))
        state = weights(config)
        content = convert_state_dict(state, target)
        torch.save({"model": content, **other_entries} if other_entries else content, tmp_path / name)
        return config, tmp_path / name, state

    return write_detector


def weights(config):
    cfg = LazyConfig.load(str(config)).model
    cfg.backbone.weights = None  # the weights are replaced by random values, without a download
    return build_randomised(cfg).state_dict()


def run(config, weights, output, *options):
    arguments = ["--config-file", str(config), "--weights", str(weights), "--output", str(output), *options]
    return cli.main(["convert-checkpoint", *arguments])


def assert_equal(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(state[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("project", DETECTORS)
def test_converting_to_a_foreign_format_and_back_restores_the_weights(project, write, tmp_path, capsys):
    config, source, state = write(project)
    _, target, entry = DETECTORS[project]
    foreign, restored = tmp_path / "foreign.pth", tmp_path / "new" / "back.safetensors"
    assert run(config, source, foreign, "--to", target) == 0
    assert "names of detrex_lite" in capsys.readouterr().out
    content = read_checkpoint(foreign)
    assert list(content) == [entry]
    assert not any(name.startswith(("heads.", "queries.")) for name in content[entry])

    assert run(config, foreign, restored) == 0
    assert f"names of {target}" in capsys.readouterr().out
    assert_equal(read_checkpoint(restored), state)


def test_classes_by_coco_id_are_converted_and_restored(write, tmp_path):
    config, source, state = write("detr", "detr")
    assert read_checkpoint(source)["class_embed.weight"].shape[0] == 92
    ours, foreign = tmp_path / "ours.pth", tmp_path / "theirs.pth"
    assert run(config, source, ours) == 0
    assert_equal(read_checkpoint(ours)["model"], state)
    assert read_checkpoint(ours)["model"]["heads.class_embed.0.weight"].shape[0] == 81
    assert run(config, ours, foreign, "--to", "detr") == 0
    assert_equal(read_checkpoint(foreign)["model"], read_checkpoint(source))


def test_averaged_weights_are_converted_unless_no_ema_is_given(write, tmp_path):
    config, source, state = write("detr", classes=3, model_ema=None, class_names=["a", "b", "c"])
    mean = {name: value + 1 for name, value in state.items()}
    torch.save({**read_checkpoint(source), "model_ema": mean}, source)
    assert run(config, source, tmp_path / "mean.pth") == 0
    content = read_checkpoint(tmp_path / "mean.pth")
    assert_equal(content["model"], mean)
    assert content["class_names"] == ["a", "b", "c"]
    assert run(config, source, tmp_path / "last.pth", "--no-ema") == 0
    assert_equal(read_checkpoint(tmp_path / "last.pth")["model"], state)


def test_missing_denoising_weights_are_not_written(write, tmp_path):
    config, source, state = write("dino", classes=5)
    del state["denoising.label_embedding.weight"]
    torch.save(state, source)
    assert run(config, source, tmp_path / "out.pth") == 0
    assert_equal(read_checkpoint(tmp_path / "out.pth")["model"], state)
    assert run(config, source, tmp_path / "mmdet.pth", "--to", "mmdetection") == 0
    assert "dn_query_generator.label_embedding.weight" not in read_checkpoint(tmp_path / "mmdet.pth")["state_dict"]


def test_overrides_reach_the_config(write, tmp_path, capsys):
    config, source, _ = write("detr", classes=7)
    config.write_text(SMALL.format(project="detr", classes=80, changes={}))
    output = tmp_path / "out.pth"
    assert run(config, source, output) == 2
    assert "classes" in capsys.readouterr().err
    assert run(config, source, output, "model.num_classes=7") == 0
    assert run(config, source, output, "model.num_clases=7", "--overwrite") == 2
    assert "num_classes" in capsys.readouterr().err


def test_an_existing_output_is_kept_without_overwrite(write, tmp_path, capsys):
    config, source, state = write("detr")
    output = tmp_path / "out.pth"
    output.write_text("mine")
    assert run(config, source, output) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert run(config, source, output, "--overwrite") == 0
    assert_equal(read_checkpoint(output)["model"], state)


def test_mismatched_and_missing_files_are_reported(write, tmp_path, capsys):
    config, source, state = write("detr")
    other_config, _, _ = write("deformable_detr", name="other.pth")
    incomplete = tmp_path / "half.pth"
    torch.save({name: value for name, value in state.items() if "decoder" not in name}, incomplete)
    output = tmp_path / "out.pth"
    cases = [
        ((other_config, source), "in.pth", "Use the config"),
        ((config, incomplete), "half.pth", "transformer.decoder"),
        ((config, source, "--to", "detrx"), "detrx", "did you mean 'detrex'"),
        ((other_config, tmp_path / "other.pth", "--to", "detr"), "detr has no"),
        ((config, tmp_path / "absent.pth"), "absent.pth", "no file"),
        ((tmp_path / "absent.py", source), "absent.py"),
    ]
    for (config_file, weights_file, *options), *messages in cases:
        assert run(config_file, weights_file, output, *options) == 2
        error = capsys.readouterr().err
        assert all(message in error for message in messages), error
    assert run(config, source, tmp_path / "out.zip") == 2
    assert ".safetensors" in capsys.readouterr().err
    empty = tmp_path / "empty.py"
    empty.write_text("train = dict()")
    assert run(empty, source, output) == 2
    assert "no 'model'" in capsys.readouterr().err
    assert not output.exists()
