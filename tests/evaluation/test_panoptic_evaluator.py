import json
import logging
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from detrex_lite import distributed
from detrex_lite.data import DatasetError, load_coco_panoptic
from detrex_lite.evaluation import CocoEvaluator, CombinedEvaluator, PanopticEvaluator, format_table
from detrex_lite.evaluation.panoptic_files import MAX_ID, panoptic_annotation, write_segmentation
from detrex_lite.structures import Boxes, Instances

from .datasets import MemoryDataset, model_output

# The ids have gaps and are not sorted.
CATEGORIES = (
    {"id": 200, "name": "road", "isthing": 0},
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 90, "name": "dog", "isthing": 1},
)
CAT, DOG, ROAD = range(3)
IDS = (3, 90, 200)


def stripes(*runs):
    """(4, W) segment ids of vertical stripes, given as runs of (id, width)."""
    return np.repeat(np.array([[segment_id for segment_id, width in runs for _ in range(width)]]), 4, axis=0)


CONTENT = {
    # image id -> (ids, {id: (class, iscrowd)})
    11: (stripes((70_000, 5), (300, 5), (0, 2)), {70_000: (CAT, 0), 300: (ROAD, 0)}),
    12: (stripes((8, 6), (9, 6)), {8: (DOG, 0), 9: (CAT, 1)}),
    13: (stripes((0, 12)), {}),
}


def write_truth(folder, content=CONTENT, **changes):
    """Write annotations.json and the folder of PNG files with the same name."""
    annotations = []
    for image_id, (ids, segments) in content.items():
        write_segmentation(folder / "annotations" / f"{image_id}.png", ids)
        infos = [{"id": segment_id, "category_id": class_index} for segment_id, (class_index, _) in segments.items()]
        annotation = panoptic_annotation(image_id, f"{image_id}.png", infos, ids, IDS)
        for info, (_, crowd) in zip(annotation["segments_info"], segments.values(), strict=True):
            info["iscrowd"] = crowd
        annotations.append(annotation)
    images = [{"id": image_id, "file_name": f"{image_id}.jpg", "height": 4, "width": 12} for image_id in content]
    content_of_file = {"images": images, "categories": CATEGORIES, "annotations": annotations, **changes}
    path = folder / "annotations.json"
    path.write_text(json.dumps({name: value for name, value in content_of_file.items() if value is not None}))
    return path


def load(path):
    return load_coco_panoptic(path, path.parent)


def model_input(image_id):
    return {"image_id": image_id, "file_name": f"{image_id}.jpg", "height": 4, "width": 12}


def panoptic_output(ids, segments):
    """A model output; `segments` maps ids to classes."""
    infos = [
        {
            "id": segment_id,
            "category_id": class_index,
            "isthing": class_index != ROAD,
            "score": 0.5,
            "area": int((ids == segment_id).sum()),
        }
        for segment_id, class_index in segments.items()
    ]
    return {"panoptic_seg": (torch.as_tensor(ids, dtype=torch.int32), infos)}


def perfect_outputs(content=CONTENT):
    """Perfect outputs, with other segment ids than the annotation; crowds are detected as segments."""
    outputs = {}
    for image_id, (ids, segments) in content.items():
        new_ids = {segment_id: new_id for new_id, segment_id in enumerate(segments, 1)}
        renamed = np.vectorize(lambda segment_id, new_ids=new_ids: new_ids.get(segment_id, 0))(ids)
        outputs[image_id] = panoptic_output(
            renamed, {new_ids[segment_id]: class_index for segment_id, (class_index, _) in segments.items()}
        )
    return outputs


def evaluate(path, outputs, **arguments):
    evaluator = PanopticEvaluator(dataset=load(path), **arguments)
    for image_id, output in outputs.items():
        evaluator.process([model_input(image_id)], [output])
    return evaluator.evaluate()


def test_the_annotation_itself_scores_100(tmp_path):
    path = write_truth(tmp_path)
    results = evaluate(path, perfect_outputs())
    metrics = results["panoptic_seg"]
    assert all(value == pytest.approx(100) for value in metrics.values()), metrics
    names = [f"panoptic_seg/{name}" for name in metrics]
    assert list(PanopticEvaluator(dataset=load(path)).metric_names) == names
    assert names[-3:] == ["panoptic_seg/PQ-road", "panoptic_seg/SQ-road", "panoptic_seg/RQ-road"]
    assert "things  100.00  100.00  100.00" in format_table(results)


def test_metrics_agree_with_numbers_computed_by_hand(tmp_path):
    """In image 11, 4 of 5 columns of the cat are correct; its last column and 2 of the road are predicted as dog."""
    ids = stripes((1, 4), (2, 3), (3, 5))
    outputs = {**perfect_outputs(), 11: panoptic_output(ids, {1: CAT, 2: DOG, 3: ROAD})}
    metrics = evaluate(write_truth(tmp_path), outputs)["panoptic_seg"]
    assert metrics["PQ-cat"] == metrics["SQ-cat"] == pytest.approx(80)
    assert metrics["PQ-road"] == pytest.approx(60)  # 3 of 5 columns; the 2 columns on void are ignored
    assert metrics["PQ-dog"] == metrics["RQ-dog"] == pytest.approx(100 / 1.5)  # one true and one false positive
    assert metrics["SQ-dog"] == pytest.approx(100)
    assert metrics["PQ_th"] == pytest.approx((80 + 100 / 1.5) / 2)
    assert metrics["PQ_st"] == pytest.approx(60)
    assert metrics["PQ"] == pytest.approx((80 + 100 / 1.5 + 60) / 3)


def test_written_predictions_are_a_coco_panoptic_data_set(tmp_path):
    path, output_dir = write_truth(tmp_path / "truth"), tmp_path / "new" / "output"
    ids = stripes((MAX_ID, 4), (0, 8))
    outputs = {**perfect_outputs(), 11: panoptic_output(ids, {MAX_ID: DOG})}
    metrics = evaluate(path, outputs, output_dir=output_dir)
    content = json.loads((output_dir / "panoptic.json").read_text())
    assert [annotation["image_id"] for annotation in content["annotations"]] == [11, 12, 13]
    first = content["annotations"][0]
    assert first["file_name"] == "000000000011.png"
    [segment] = first["segments_info"]
    assert segment == {
        "id": MAX_ID,
        "category_id": 90,
        "bbox": [0, 0, 4, 4],
        "area": 16,
        "iscrowd": 0,
        "score": 0.5,
    }
    pixels = np.asarray(Image.open(output_dir / "panoptic" / "000000000011.png"))
    assert pixels[0].tolist() == [[255, 255, 255]] * 4 + [[0, 0, 0]] * 8
    written = json.loads((output_dir / "panoptic_metrics.json").read_text())
    assert written["panoptic_seg"]["PQ"] == pytest.approx(metrics["panoptic_seg"]["PQ"])
    # The written predictions load as a data set.
    assert load(output_dir / "panoptic.json").file_name(0) == str(output_dir / "11.jpg")
    reloaded = evaluate(output_dir / "panoptic.json", outputs)["panoptic_seg"]
    assert {value for value in reloaded.values() if not math.isnan(value)} == {100}
    assert math.isnan(reloaded["PQ-road"])


def test_unprocessed_images_are_logged_and_their_segments_count_as_missed(tmp_path, caplog):
    outputs = perfect_outputs()
    del outputs[11]
    metrics = evaluate(write_truth(tmp_path), outputs)["panoptic_seg"]
    assert "Only 2 of 3 images were processed" in caplog.text
    assert metrics["PQ-cat"] == metrics["PQ-road"] == 0
    assert metrics["PQ-dog"] == 100


def test_metrics_without_predicted_segments_are_0(tmp_path):
    outputs = {image_id: panoptic_output(np.zeros((4, 12)), {}) for image_id in CONTENT}
    metrics = evaluate(write_truth(tmp_path), outputs)["panoptic_seg"]
    assert set(metrics.values()) == {0}


def test_an_image_processed_twice_counts_once_and_reset_discards_images(tmp_path):
    evaluator = PanopticEvaluator(dataset=load(write_truth(tmp_path)))
    outputs = perfect_outputs()
    wrong_output = panoptic_output(stripes((1, 12)), {1: DOG})
    evaluator.process([model_input(11)], [wrong_output])
    evaluator.reset()
    for image_id in (*CONTENT, 11):
        evaluator.process([model_input(image_id)], [outputs[image_id]])
    evaluator.process([model_input(11)], [wrong_output])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_without_annotations_only_predictions_are_written(tmp_path, caplog):
    path = write_truth(tmp_path / "truth", annotations=None)
    with caplog.at_level(logging.WARNING):
        assert evaluate(path, perfect_outputs(), output_dir=tmp_path / "out") == {}
    assert "'annotations' has no annotations" in caplog.text
    assert len(json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]) == 3
    assert PanopticEvaluator(dataset=load(path)).metric_names == ()
    with pytest.raises(ValueError, match="segment 9 .*no pixel"):
        evaluate(path, {11: panoptic_output(np.zeros((4, 12)), {9: CAT})})


def test_box_ap_and_panoptic_quality_can_be_combined(tmp_path):
    boxes = CocoEvaluator(dataset=MemoryDataset({11: [([0, 0, 100, 100], 0)], 12: [], 13: []}))
    evaluator = CombinedEvaluator(evaluators=[boxes, PanopticEvaluator(dataset=load(write_truth(tmp_path)))])
    assert {"bbox/AP", "panoptic_seg/PQ"} <= set(evaluator.metric_names)
    for _ in range(2):
        evaluator.reset()
        for image_id, output in perfect_outputs().items():
            detections = model_output([[0, 0, 100, 100]], [0.5], [0]) if image_id == 11 else model_output()
            evaluator.process([model_input(image_id)], [{**output, **detections}])
        results = evaluator.evaluate()
        assert list(results) == ["bbox", "panoptic_seg"]
        assert results["bbox"]["AP"] == pytest.approx(results["panoptic_seg"]["PQ"]) == pytest.approx(100)


def test_combined_evaluators_with_the_same_metric_group_raise_an_error():
    class Evaluator:
        def evaluate(self):
            return {"bbox": {"AP": 1.0}}

    evaluator = CombinedEvaluator(evaluators=[Evaluator(), Evaluator()])
    assert evaluator.metric_names == ()  # these evaluators do not declare metric names
    with pytest.raises(ValueError, match="two evaluators .*'bbox'"):
        evaluator.evaluate()
    with pytest.raises(ValueError, match="at least one"):
        CombinedEvaluator(evaluators=[])


CAT_IDS = stripes((1, 12))


@pytest.mark.parametrize(
    ("image_id", "output", "message"),
    [
        (5, panoptic_output(CAT_IDS, {1: CAT}), r"image 5 \(5.jpg\) is not in the evaluator's data set 'annotations'"),
        (11, {"instances": []}, r"image 11 \(11.jpg\): .* no 'panoptic_seg'"),
        (11, panoptic_output(CAT_IDS[:3], {1: CAT}), r"image 11 .* 3 x 12 pixels .* 4 x 12"),
        (11, panoptic_output(CAT_IDS, {1: 3}), r"segment 1 is of class 3, .* 3 classes, 0..2"),
        (11, panoptic_output(CAT_IDS, {2: CAT}), r"the id 1, .* no found segment"),
        (11, panoptic_output(CAT_IDS[None], {1: CAT}), r"integer tensor \(height, width\) .*\(1, 4, 12\)"),
        (11, {"panoptic_seg": (torch.zeros(4, 12), [])}, "integer tensor .* got torch.float32"),
        (11, panoptic_output(-CAT_IDS, {-1: CAT}), "from 0 to 16777215"),
        (11, {"panoptic_seg": (torch.from_numpy(CAT_IDS), [{"id": 1}])}, "no 'category_id'"),
    ],
)
def test_invalid_outputs_raise_an_error(tmp_path, image_id, output, message):
    with pytest.raises(ValueError, match=message):
        evaluate(write_truth(tmp_path), {image_id: output})


def test_inputs_without_id_and_a_wrong_number_of_outputs_raise_an_error(tmp_path):
    evaluator = PanopticEvaluator(dataset=load(write_truth(tmp_path)))
    output = panoptic_output(CAT_IDS, {1: CAT})
    with pytest.raises(ValueError, match="no 'image_id'"):
        evaluator.process([{"height": 4}], [output])
    with pytest.raises(ValueError, match="2 outputs for 1 inputs"):
        evaluator.process([model_input(11)], [output, output])


def test_a_data_set_without_panoptic_segmentations_raises_an_error(tmp_path):
    with pytest.raises(ValueError, match="'memory' has no panoptic segmentations"):
        PanopticEvaluator(dataset=MemoryDataset({11: []}))


def test_an_unreadable_file_raises_an_error_with_its_name(tmp_path):
    path = write_truth(tmp_path)
    (tmp_path / "annotations" / "11.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"annotations/11\.png cannot be read") as raised:
        evaluate(path, perfect_outputs())
    assert "of the model" not in str(raised.value)


def test_segments_that_the_data_set_drops_are_void(tmp_path):
    path = write_truth(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["bbox"] = [0, 0, 0, 4]
    path.write_text(json.dumps(content))
    metrics = evaluate(path, perfect_outputs())["panoptic_seg"]
    assert math.isnan(metrics["PQ-cat"])  # the removed segment is neither missed nor a false positive
    assert metrics["PQ"] == 100


def test_masks_of_a_panoptic_data_set_have_mask_ap(tmp_path):
    dataset = load(write_truth(tmp_path))
    evaluator = CocoEvaluator(dataset=dataset)
    for index, image_id in enumerate(CONTENT):
        record = dataset[index]
        instances = Instances((4, 12), pred_boxes=Boxes(record["boxes"]), pred_classes=record["classes"])
        instances.scores = torch.ones(len(instances))
        instances.pred_masks = record["segmentations"].tensor
        evaluator.process([model_input(image_id)], [{"instances": instances}])
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)


def test_two_processes_give_the_result_of_a_single_process(tmp_path, monkeypatch):
    path, outputs = write_truth(tmp_path / "truth"), perfect_outputs()
    expected = evaluate(path, outputs, output_dir=tmp_path / "alone")
    evaluators = [PanopticEvaluator(dataset=load(path), output_dir=tmp_path / "both") for _ in range(2)]
    # Both processes get image 12, as with a sampler that pads its shards.
    for evaluator, image_ids in zip(evaluators, ([11, 12], [13, 12]), strict=True):
        for image_id in image_ids:
            evaluator.process([model_input(image_id)], [outputs[image_id]])
    message = pickle.dumps(evaluators[1]._results)
    monkeypatch.setattr(distributed, "gather_objects", lambda results: [results, pickle.loads(message)])
    assert evaluators[0].evaluate() == expected
    for name in ("panoptic.json", "panoptic/000000000013.png"):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
