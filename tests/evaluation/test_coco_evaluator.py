import json
import logging
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detrex_lite.data import DatasetError, load_coco, load_voc
from detrex_lite.evaluation import CocoEvaluator
from detrex_lite.evaluation.backends import BACKENDS
from detrex_lite.evaluation.pycocotools_bridge import METRIC_NAMES

from .datasets import MemoryDataset, model_input, model_output, perfect_output

BIG, MEDIUM, SMALL = [10, 10, 190, 150], [20, 30, 80, 90], [100.5, 50.25, 110.5, 62.75]


def two_images():
    return MemoryDataset({42: [(BIG, 0), (MEDIUM, 1)], 7: [(SMALL, 0)], 11: []})


def evaluate(dataset, outputs, output_dir=None):
    evaluator = CocoEvaluator(dataset=dataset, output_dir=output_dir)
    file_names = {image_id: dataset.file_name(index) for index, image_id in enumerate(dataset.image_ids)}
    for image_id, output in outputs.items():
        evaluator.process([{**model_input(image_id), "file_name": file_names[image_id]}], [output])
    return evaluator.evaluate()


def test_perfect_detections_score_100():
    dataset = two_images()
    metrics = evaluate(dataset, {i: perfect_output(dataset, i) for i in dataset.objects})["bbox"]
    assert list(metrics) == [*METRIC_NAMES, "AP-cat", "AP-dog"]
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "AP-cat", "AP-dog"):
        assert metrics[name] == pytest.approx(100, abs=1e-9), name
    # The two cats are in different images, so one detection per image reaches full recall.
    assert metrics["AR1"] == pytest.approx(100, abs=1e-9)


def random_objects(num_images):
    """Map image ids to (boxes, classes, model output); boxes are whole pixels, detections are noisy copies of them."""
    generator = torch.Generator().manual_seed(3)
    content = {}
    for image_id in range(100, 100 + num_images):
        low = torch.randint(0, 150, (4, 2), generator=generator)
        boxes = torch.cat([low, low + torch.randint(5, 50, (4, 2), generator=generator)], dim=1)
        classes = torch.randint(0, 2, (4,), generator=generator)
        noisy_boxes = boxes + torch.randn(4, 4, generator=generator) * 4
        scores = torch.rand(4, generator=generator)
        content[image_id] = boxes.tolist(), classes.tolist(), model_output(noisy_boxes.tolist(), scores, classes)
    return content


def write_coco(path, content, crowd_row=None):
    annotations = []
    for image_id, (boxes, classes, _) in content.items():
        for row, ((x0, y0, x1, y1), k) in enumerate(zip(boxes, classes, strict=True)):
            annotations.append(
                {
                    "id": len(annotations),  # includes 0, which pycocotools interprets as "not matched"
                    "image_id": image_id,
                    "category_id": [3, 7][k],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(row == crowd_row),
                }
            )
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 200, "width": 300} for i in content]
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))


def write_voc(folder, content):
    folder.mkdir()
    for image_id, (boxes, classes, _) in content.items():
        objects = "".join(
            f"<object><name>{('cat', 'dog')[k]}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for (x0, y0, x1, y1), k in zip(boxes, classes, strict=True)
        )
        (folder / f"{image_id}.xml").write_text(
            f"<annotation><filename>{image_id}.jpg</filename><size><width>300</width><height>200</height>"
            f"<depth>3</depth></size>{objects}</annotation>"
        )
        Image.new("RGB", (300, 200)).save(folder / f"{image_id}.jpg")


def test_metrics_agree_with_pycocotools_on_the_written_files(tmp_path):
    content = random_objects(20)
    write_coco(tmp_path / "truth.json", content, crowd_row=3)
    dataset = load_coco(tmp_path / "truth.json", tmp_path)
    outputs = {image_id: output for image_id, (_, _, output) in content.items()}
    metrics = evaluate(dataset, outputs, tmp_path)["bbox"]

    truth = COCO(str(tmp_path / "truth.json"))
    for annotation in truth.dataset["annotations"]:
        annotation["id"] += 1
    truth.createIndex()
    reference = COCOeval(truth, truth.loadRes(str(tmp_path / "predictions.json")), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    expected = [100 * value if value > -1 else math.nan for value in reference.stats]
    assert [metrics[name] for name in METRIC_NAMES] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert 5 < metrics["AP"] < 95
    assert metrics["AP"] == pytest.approx((metrics["AP-cat"] + metrics["AP-dog"]) / 2)
    assert metrics["AP-cat"] != metrics["AP-dog"]


def test_coco_and_voc_files_of_the_same_objects_give_the_same_metrics(tmp_path):
    content = random_objects(6)
    write_coco(tmp_path / "truth.json", content)
    write_voc(tmp_path / "voc", content)
    names = ("cat", "dog")
    from_coco = load_coco(tmp_path / "truth.json", tmp_path, class_names=names)
    from_voc = load_voc(tmp_path / "voc", tmp_path / "voc", class_names=names)
    outputs = [output for _, _, output in content.values()]
    results = [
        evaluate(dataset, dict(zip(dataset.image_ids.tolist(), outputs, strict=True)))
        for dataset in (from_coco, from_voc)
    ]
    assert results[0]["bbox"] == pytest.approx(results[1]["bbox"], nan_ok=True)
    assert results[0]["bbox"]["AP"] > 5


def test_files_have_the_original_image_and_category_ids(tmp_path):
    dataset = two_images()
    outputs = {42: model_output([SMALL, BIG], [0.25, 0.5], [0, 1]), 7: model_output(), 11: model_output()}
    results = evaluate(dataset, outputs, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert json.loads((folder / "predictions.json").read_text()) == [
        {"image_id": 42, "file_name": "42.jpg", "category_id": 7, "bbox": [100.5, 50.25, 10.0, 12.5], "score": 0.25},
        {"image_id": 42, "file_name": "42.jpg", "category_id": 3, "bbox": [10.0, 10.0, 180.0, 140.0], "score": 0.5},
    ]
    assert json.loads((folder / "metrics.json").read_text()) == results


def test_existing_files_are_replaced_and_not_overwritten_in_place(tmp_path):
    for name in ("predictions.json", "metrics.json"):
        (tmp_path / name).write_text("before")
        (tmp_path / f"link to {name}").hardlink_to(tmp_path / name)
    evaluate(two_images(), {42: model_output([BIG], [0.5], [0])}, tmp_path)
    for name in ("predictions.json", "metrics.json"):
        assert json.loads((tmp_path / name).read_text())
        assert (tmp_path / f"link to {name}").read_text() == "before"


def test_metrics_without_detections_are_0(tmp_path):
    dataset = two_images()
    metrics = evaluate(dataset, {i: model_output() for i in dataset.objects}, tmp_path)["bbox"]
    assert all(value == 0 for value in metrics.values()), metrics
    assert json.loads((tmp_path / "predictions.json").read_text()) == []


def test_metrics_without_ground_truth_are_nan_and_null_in_json(tmp_path):
    dataset = MemoryDataset({42: [(BIG, 0)]})
    metrics = evaluate(dataset, {42: perfect_output(dataset, 42)}, tmp_path)["bbox"]
    assert metrics["AP"] == metrics["AP-cat"] == metrics["APl"] == pytest.approx(100)
    assert math.isnan(metrics["AP-dog"])
    assert math.isnan(metrics["APs"])
    written = json.loads((tmp_path / "metrics.json").read_text())["bbox"]
    assert written["AP-dog"] is None
    assert written["AP"] == metrics["AP"]


def test_metrics_of_an_annotated_data_set_without_objects_are_nan():
    dataset = MemoryDataset({1: [], 2: []})
    metrics = evaluate(dataset, {1: model_output([BIG], [0.5], [0]), 2: model_output()})["bbox"]
    assert all(math.isnan(value) for value in metrics.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_metrics_of_a_coco_file_without_objects_are_nan_and_detections_are_written(tmp_path, caplog, backend):
    pytest.importorskip(backend.replace("-", "_"))
    images = [{"id": k, "file_name": f"{k}.jpg", "height": 200, "width": 300} for k in (1, 2)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    evaluator = CocoEvaluator(dataset=load_coco(tmp_path / "val.json", tmp_path), output_dir=tmp_path, backend=backend)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            evaluator.reset()
            evaluator.process(
                [model_input(1), model_input(2)], [model_output([BIG, SMALL], [0.5, 0.9], [0, 0]), model_output()]
            )
            metrics = evaluator.evaluate()["bbox"]
    assert list(metrics) == [*METRIC_NAMES, "AP-cat"]
    assert all(math.isnan(value) for value in metrics.values())
    assert json.loads((tmp_path / "metrics.json").read_text())["bbox"]["AP"] is None
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 2
    assert "'val' has no objects" in caplog.text


def test_an_object_with_a_negative_area_is_evaluated(tmp_path):
    images = [{"id": 42, "file_name": "42.jpg", "height": 200, "width": 300}]
    annotations = [{"id": 1, "image_id": 42, "category_id": 1, "bbox": [10, 10, 180, 140], "area": -5}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    metrics = evaluate(load_coco(tmp_path / "val.json", tmp_path), {42: model_output([BIG], [0.9], [0])})["bbox"]
    assert metrics["AP"] == metrics["APl"] == pytest.approx(100)


def test_unprocessed_images_are_logged_and_their_objects_count_as_missed(caplog):
    dataset = MemoryDataset({42: [(BIG, 0)], 7: [(BIG, 0)]})
    metrics = evaluate(dataset, {42: perfect_output(dataset, 42)})["bbox"]
    assert metrics["AR100"] == pytest.approx(50)
    assert "Only 1 of 2 images were processed" in caplog.text
    assert "7.jpg" in caplog.text
    assert "42.jpg" not in caplog.text


def test_without_annotations_only_predictions_are_written(tmp_path, caplog):
    dataset = MemoryDataset({42: []}, has_annotations=False)
    with caplog.at_level(logging.WARNING):
        assert evaluate(dataset, {42: model_output([BIG], [0.5], [0])}, tmp_path) == {}
    assert "'memory' has no annotations" in caplog.text
    assert str(tmp_path) in caplog.text
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 1
    assert not (tmp_path / "metrics.json").exists()


def test_detections_in_crowds_do_not_count_as_wrong():
    crowd = [100, 20, 290, 190]
    dataset = MemoryDataset({42: [(MEDIUM, 0), (crowd, 0, True)]})
    output = model_output([MEDIUM, [120, 30, 150, 60]], [0.5, 0.9], [0, 0])
    assert evaluate(dataset, {42: output})["bbox"]["AP"] == pytest.approx(100)
    without_crowd = MemoryDataset({42: [(MEDIUM, 0)]})
    assert evaluate(without_crowd, {42: output})["bbox"]["AP"] == pytest.approx(50, abs=1)


def test_size_metrics_use_the_annotated_area():
    # The box is large, the annotated area is small.
    dataset = MemoryDataset({42: [(BIG, 0, False, 500.0)]})
    metrics = evaluate(dataset, {42: perfect_output(dataset, 42)})["bbox"]
    assert metrics["APs"] == pytest.approx(100)
    assert math.isnan(metrics["APl"])


def test_an_image_processed_twice_counts_once(tmp_path):
    dataset = two_images()
    evaluator = CocoEvaluator(dataset=dataset, output_dir=tmp_path)
    for image_id in (42, 7, 11, 42):
        evaluator.process([model_input(image_id)], [perfect_output(dataset, image_id)])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 3


def test_unprocessed_images_lower_the_class_precision(caplog):
    dataset = two_images()
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(dataset, {42: perfect_output(dataset, 42)})["bbox"]
    assert "Only 1 of 3 images" in caplog.text
    assert 40 < metrics["AP-cat"] < 60


def test_reset_discards_detections():
    dataset = two_images()
    evaluator = CocoEvaluator(dataset=dataset)
    evaluator.process([model_input(42)], [perfect_output(dataset, 42)])
    evaluator.reset()
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_a_box_with_negative_sides_is_written_with_sides_of_0(tmp_path):
    evaluate(two_images(), {42: model_output([[50, 40, 20, 10]], [0.5], [0])}, tmp_path)
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["bbox"] == [50, 40, 0, 0]


def test_bfloat16_outputs_are_evaluated():
    dataset = MemoryDataset({42: [(BIG, 0)]})
    output = perfect_output(dataset, 42)
    output["instances"] = output["instances"].to(torch.bfloat16)
    output["instances"].pred_classes = torch.tensor([0])
    assert evaluate(dataset, {42: output})["bbox"]["AP50"] == pytest.approx(100)


def test_output_of_pycocotools_goes_to_the_log(capsys, caplog):
    dataset = two_images()
    with caplog.at_level(logging.DEBUG):
        evaluate(dataset, {42: perfect_output(dataset, 42)})
    assert capsys.readouterr().out == ""
    assert "Average Precision  (AP) @[ IoU=0.50:0.95" in caplog.text


@pytest.mark.parametrize(
    ("image_id", "output", "message"),
    [
        (5, model_output(), r"image 5 \(5.jpg\) is not in the evaluator's data set 'memory'"),
        (42, model_output([BIG], [math.nan], [0]), r"image 42 \(42.jpg\): scores .* not finite"),
        (42, model_output([[0, 0, math.inf, 1]], [0.5], [0]), r"image 42 .*pred_boxes .* not finite"),
        (42, model_output([BIG], [0.5], [2]), r"image 42 .*class 2, but .*'memory' has 2 classes, 0..1"),
        (42, model_output([BIG], [0.5], [-1]), r"image 42 .*class -1"),
    ],
)
def test_invalid_outputs_raise_an_error(image_id, output, message):
    evaluator = CocoEvaluator(dataset=two_images())
    with pytest.raises(ValueError, match=message):
        evaluator.process([model_input(image_id)], [output])


def test_an_image_of_another_data_set_raises_an_error():
    evaluator = CocoEvaluator(dataset=two_images())
    for file_name in ("42.jpg", "images/42.jpg"):
        evaluator.process([{**model_input(42), "file_name": file_name}], [model_output()])
    with pytest.raises(DatasetError, match=r"image 42 \(test/0.jpg\) is 42.jpg .*dataloader.evaluator.dataset"):
        evaluator.process([{**model_input(42), "file_name": "test/0.jpg"}], [model_output()])


def test_detections_of_further_classes_are_ignored(tmp_path):
    dataset = MemoryDataset({42: [(BIG, 0)]})
    output = model_output([BIG, BIG, BIG], [0.9, 0.8, 0.95], [0, 2, 3])
    evaluator = CocoEvaluator(dataset=dataset, output_dir=tmp_path, further_classes=2)
    evaluator.process([model_input(42)], [output])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert [prediction["score"] for prediction in json.loads((tmp_path / "predictions.json").read_text())] == [
        pytest.approx(0.9)
    ]
    with pytest.raises(ValueError, match="class 3, .* 2 classes.* 1 further_classes"):
        CocoEvaluator(dataset=dataset, further_classes=1).process([model_input(42)], [output])
    with pytest.raises(ValueError, match="further_classes must be .* got -1"):
        CocoEvaluator(dataset=dataset, further_classes=-1)


def test_inputs_without_id_and_a_wrong_number_of_outputs_raise_an_error():
    evaluator = CocoEvaluator(dataset=two_images())
    with pytest.raises(ValueError, match="no 'image_id'"):
        evaluator.process([{"height": 3}], [model_output()])
    with pytest.raises(ValueError, match="2 outputs for 1 inputs"):
        evaluator.process([model_input(42)], [model_output(), model_output()])


def _evaluate_on_rank(rank, init_file, folder):
    dist.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=2)
    dataset = two_images()
    evaluator = CocoEvaluator(dataset=dataset, output_dir=folder / "evaluation")
    # Both processes get image 7, as with a sampler that pads its shards.
    for image_id in ([42, 7], [11, 7])[rank]:
        evaluator.process([model_input(image_id)], [perfect_output(dataset, image_id)])
    results = evaluator.evaluate()
    (folder / f"rank{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_two_processes_give_the_result_of_a_single_process(tmp_path):
    mp.spawn(_evaluate_on_rank, args=(tmp_path / "init", tmp_path), nprocs=2)
    dataset = two_images()
    expected = evaluate(dataset, {i: perfect_output(dataset, i) for i in dataset.objects})
    for rank in range(2):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == expected
    predictions = json.loads((tmp_path / "evaluation" / "predictions.json").read_text())
    assert [prediction["image_id"] for prediction in predictions] == [7, 42, 42]
