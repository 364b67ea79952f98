import json

import pytest
from PIL import Image

from detrex_lite import cli
from detrex_lite.commands import demo
from detrex_lite.visualization import contact_sheet

# As small as possible, and without loader workers, which need seconds to start.
TINY = (
    "model.num_queries=5",
    "model.transformer.encoder.num_layers=1",
    "model.transformer.decoder.num_layers=1",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.device=cpu",
)


def run_quickly(output, *arguments):
    return cli.main(["demo", "--quick", "--output", str(output), *arguments, *TINY])


def test_all_announced_files_are_written_and_replaced_by_a_second_run(tmp_path, capsys):
    output = tmp_path / "new" / "demo"
    assert run_quickly(output) == 0
    printed = capsys.readouterr().out
    for name in demo.CONTENTS:
        assert (output / name).exists(), name
        assert name in printed
    assert "AP50" in printed
    assert "triangle" in printed
    assert "12 held-out images" in printed
    assert printed.splitlines()[-1].startswith("Total time: 0:")
    assert set(json.loads((output / "metrics.json").read_text())["bbox"]) >= {"AP", "AP50", "AP-circle"}
    with Image.open(output / "contact_sheet.png") as image:
        assert image.width > 1000

    (output / "left.txt").write_text("of the first run")
    assert run_quickly(output, "train.max_iter=2") == 0
    assert not (output / "left.txt").exists()
    iterations = [json.loads(line)["iteration"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert max(iterations) == 2


def test_masks_of_a_segmenting_detector_are_drawn_and_evaluated(tmp_path, monkeypatch, capsys):
    drawn = []

    def draw(rows, *arguments, **settings):
        drawn.extend(rows)
        return contact_sheet(rows, *arguments, **settings)

    monkeypatch.setattr(demo, "contact_sheet", draw)
    assert run_quickly(tmp_path, "--masks", "model.num_mask_points=50") == 0
    assert len(drawn) == 12
    for row in drawn:
        assert len(row.ground_truth.gt_masks) == len(row.ground_truth.gt_classes)
        assert row.detections.pred_masks.shape[1:] == (96, 96)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) == {"bbox", "segm"}
    assert set(metrics["segm"]) >= {"AP", "AP50", "AP-circle"}
    assert "box and mask average precision" in capsys.readouterr().out
    predictions = json.loads((tmp_path / "evaluation" / "predictions.json").read_text())
    assert predictions
    assert all("segmentation" in prediction for prediction in predictions)


def test_masks_with_another_config_are_rejected(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["demo", "--masks", "--config-file", "projects/detr/configs/detr_small_shapes.py"])
    assert "--config-file" in capsys.readouterr().err


def test_a_folder_not_written_by_the_demo_is_not_changed(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(SystemExit, match="2"):
        run_quickly(tmp_path)
    assert "was not written by this demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"
    with pytest.raises(SystemExit, match="2"):
        run_quickly(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


def test_classes_of_a_trusted_package_are_built(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_hooks.py").write_text(
        "from detrex_lite.engine import Hook\nclass Stop(Hook):\n"
        "    def before_train(self, trainer):\n        raise InterruptedError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("detrex_lite.config.trusted._added", set())
    hook = "train.hooks=[{_target_: my_hooks.Stop}]"
    with pytest.raises(SystemExit, match="2"):
        run_quickly(tmp_path / "demo", hook)
    assert "--trust my_hooks" in capsys.readouterr().err
    with pytest.raises(InterruptedError):
        run_quickly(tmp_path / "demo", hook, "--trust", "my_hooks")


def test_an_empty_folder_is_used(tmp_path):
    demo.prepare_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [demo.MARKER]


def test_a_misspelt_override_writes_nothing(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_quickly(tmp_path / "demo", "train.max_itr=3")
    assert "max_iter" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
