import base64
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from detrex_lite.data import generate_shapes, load_shapes, load_shapes_panoptic
from detrex_lite.engine import train
from detrex_lite.engine.io import report
from detrex_lite.engine.io.report import RunReport, SampleKeeper, sample_row
from detrex_lite.structures import Boxes, Instances

from ..tiny import CountingEvaluator, TinyDetector, TinyLoader, tiny_config


def keep(image_ids, number=3):
    keeper = SampleKeeper(CountingEvaluator(), number=number)
    keeper.reset()
    model = TinyDetector().eval()
    for image_id in image_ids:
        inputs = [TinyLoader.image(image_id)]
        keeper.process(inputs, model(inputs))
    return keeper


def test_the_sampled_images_do_not_depend_on_the_order():
    forwards, backwards = keep(range(40)), keep(reversed(range(40)))
    assert set(forwards.samples) == set(backwards.samples)
    assert len(forwards.samples) == 3
    assert forwards.evaluate() == {"bbox": {"AP": 10.0}}
    forwards.reset()
    assert forwards.samples == {}


def test_a_repeated_image_is_kept_once():
    assert set(keep([4, 4, 4, 5]).samples) == {4, 5}
    assert len(keep([*range(9), *range(9)]).samples) == 3


def test_inputs_without_an_id_are_not_kept_and_sizes_are_optional():
    keeper = SampleKeeper(CountingEvaluator())
    output = TinyDetector().eval()([TinyLoader.image(0)])
    keeper.process([{"image": torch.zeros(3, 6, 8, dtype=torch.uint8)}], output)
    assert keeper.samples == {}
    keeper.process([{"image": torch.zeros(3, 6, 8, dtype=torch.uint8), "image_id": 3}], output)
    assert (keeper.samples[3].height, keeper.samples[3].width) == (6, 8)


def test_a_run_writes_its_report(tmp_path):
    train(tiny_config(tmp_path, "train.eval_period=2"))
    page = (tmp_path / "report.html").read_text()
    assert "best AP, at 2" in page
    assert page.count("data:image/jpeg;base64,") == 2 * 4  # the tiny loader has four images
    assert json.loads((tmp_path / "report_samples.json").read_text())["iteration"] == 6
    assert "max_iter: 6" in page


def test_a_run_without_evaluation_has_a_report(tmp_path):
    train(tiny_config(tmp_path, "~dataloader.test", "~dataloader.evaluator"))
    page = (tmp_path / "report.html").read_text()
    assert "total loss" in page
    assert "data:image" not in page
    assert not (tmp_path / "report_samples.json").exists()


def test_the_report_of_a_resumed_run_covers_the_whole_run(tmp_path):
    train(tiny_config(tmp_path, "train.max_iter=2"))
    train(tiny_config(tmp_path, "train.max_iter=4"), resume=True)
    page = (tmp_path / "report.html").read_text()
    assert "<b>4</b>iterations" in page
    assert "at iteration 2<" in page


def test_samples_show_the_ground_truth_of_the_data_set(tmp_path, monkeypatch):
    dataset = load_shapes(generate_shapes(tmp_path / "shapes", num_train=1, num_val=2), split="val")
    record = dataset[1]
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    detections = Instances(
        (96, 96),
        pred_boxes=Boxes(torch.tensor([[0.0, 0, 96, 96]])),
        scores=torch.ones(1),
        pred_classes=torch.zeros(1, dtype=torch.int64),
    )
    keeper = SampleKeeper(SimpleNamespace(reset=lambda: None, process=lambda inputs, outputs: None))
    inputs = {"image": image, "height": 96, "width": 96, "image_id": np.int64(record["image_id"])}
    keeper.process([inputs], [{"instances": detections}])
    (image_id,) = keeper.samples
    row = sample_row(dataset, image_id, keeper.samples[image_id])
    assert row.image.size == (96, 96)
    torch.testing.assert_close(row.ground_truth.gt_boxes.tensor, record["boxes"])
    torch.testing.assert_close(row.ground_truth.gt_classes, record["classes"])


def with_masks(instances):
    """Return the output for two detections with masks, only one of which has a score that is drawn."""
    instances.scores = torch.tensor([0.9, 0.1])
    instances.pred_masks = torch.ones(2, *instances.image_size, dtype=torch.bool)
    return {"instances": instances}


def with_segments(instances):
    ids = torch.ones(instances.image_size, dtype=torch.int32)
    return {"instances": instances, "panoptic_seg": (ids, [{"id": 1, "category_id": 3}])}


@pytest.mark.parametrize(("make_output", "load"), [(with_masks, load_shapes), (with_segments, load_shapes_panoptic)])
def test_samples_show_masks_and_segments(tmp_path, make_output, load):
    generate_shapes(tmp_path / "shapes", num_train=1, num_val=2, empty_share=0.0)
    dataset = load(tmp_path / "shapes", split="val", **({"masks": True} if load is load_shapes else {}))
    boxes = Boxes(torch.tensor([[0.0, 0, 96, 96], [0, 0, 9, 9]]))
    output = make_output(Instances((96, 96), pred_boxes=boxes, pred_classes=torch.zeros(2, dtype=torch.int64)))
    keeper = SampleKeeper(SimpleNamespace(reset=lambda: None, process=lambda inputs, outputs: None))
    image_id = dataset[0]["image_id"]
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    keeper.process([{"image": image, "height": 96, "width": 96, "image_id": image_id}], [output])
    hook = RunReport(output_dir=tmp_path, keeper=keeper, dataset=dataset, class_names=dataset.class_names)
    (tmp_path / "metrics.jsonl").write_text("")
    hook._write(1)
    row = sample_row(dataset, image_id, keeper.samples[image_id])
    samples = json.loads((tmp_path / "report_samples.json").read_text())["samples"]
    if make_output is with_masks:
        assert len(row.detections) == 2
        assert row.detections.pred_masks.shape == (2, 96, 96)
        assert len(row.ground_truth.gt_masks) == len(dataset[0]["boxes"])
        assert "2 detections, scores 0.90 to 0.10" in samples[0]["caption"]
    else:
        assert (row.detections[0] == 1).all()
        assert len(row.ground_truth[1]) == len(dataset[0]["boxes"])
        assert "1 segment" in samples[0]["caption"]
    panels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(panel)))) for panel in samples[0]["panels"]]
    for panel in panels:  # the image is black, so the drawing makes pixels brighter
        assert (panel.max(axis=-1) > 40).mean() > 0.05
    assert (panels[1].max(axis=-1) > 40).mean() > 0.95


def test_an_error_in_the_report_does_not_end_training(tmp_path, caplog, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no ink")

    monkeypatch.setattr("detrex_lite.engine.io.report.write_report", fail)
    results = train(tiny_config(tmp_path))
    assert results == {"bbox": {"AP": 10.0}}
    assert "report.html could not be written" in caplog.text + (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("is_main", [True, False])
def test_only_the_main_process_writes_the_report(tmp_path, monkeypatch, is_main):
    monkeypatch.setattr(report.distributed, "is_main_process", lambda: is_main)
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1, "total_loss": 2.0}\n')
    hook = RunReport(output_dir=tmp_path, keeper=None, dataset=None, class_names=None)
    hook.after_step(SimpleNamespace(iteration=1, max_iter=1, results={}))
    assert (tmp_path / "report.html").exists() == is_main
