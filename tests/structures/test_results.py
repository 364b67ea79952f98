import json
import pickle
import sys

import numpy as np
import pytest
import torch

from detrex_lite.inference.exported import Detections, FoundBoxes
from detrex_lite.results import ImageInfo
from detrex_lite.structures import Boxes, Instances

BOXES = [[10.0, 20.0, 50.0, 60.0], [0.0, 0.0, 5.5, 7.25]]
INFO = ImageInfo("photos/a.jpg", ("cat", "dog"), (7, 3), 0.75, 1)


def instances(**fields):
    result = Instances(
        (100, 200),
        pred_boxes=Boxes(torch.tensor(BOXES)),
        scores=torch.tensor([0.75, 0.5]),
        pred_classes=torch.tensor([1, 0]),
        **fields,
    )
    return result.described(**INFO._asdict())


def detections():
    boxes = FoundBoxes(np.array(BOXES, np.float32))
    return Detections((100, 200), boxes, np.array([0.75, 0.5], np.float32), np.array([1, 0], np.int32), INFO)


@pytest.mark.parametrize("make_result", [instances, detections])
def test_json_has_names_ids_and_plain_numbers(make_result):
    content = json.loads(json.dumps(make_result().to_dict()))
    assert content == {
        "file_name": "photos/a.jpg",
        "height": 100,
        "width": 200,
        "objects": [
            {"class": 1, "name": "dog", "category_id": 3, "score": 0.75, "box": BOXES[0]},
            {"class": 0, "name": "cat", "category_id": 7, "score": 0.5, "box": BOXES[1]},
        ],
    }


@pytest.mark.parametrize("make_result", [instances, detections])
def test_arrays_have_numpy_dtypes(make_result):
    arrays = make_result().to_numpy()
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "boxes": "float32",
        "scores": "float32",
        "classes": "int64",
    }
    np.testing.assert_array_equal(arrays["boxes"], BOXES)
    assert make_result()[np.array([1]) if make_result is detections else torch.tensor([1])].to_numpy()[
        "classes"
    ].tolist() == [0]


def test_bfloat16_scores_and_masks_are_converted():
    masks = torch.zeros(2, 100, 200, dtype=torch.bool)
    masks[0, 20:60, 10:50] = True
    result = instances(pred_masks=masks)
    result.scores = result.scores.to(torch.bfloat16)
    assert result.to_numpy()["scores"].tolist() == [0.75, 0.5]
    assert result.to_numpy()["masks"].sum() == 1600
    assert [row["segmentation"]["size"] for row in result.to_dict()["objects"]] == [[100, 200]] * 2


def test_image_info_survives_indexing_moving_and_concatenation():
    result = instances()
    assert result[result.scores > 0.6].info == result.to("cpu").info == Instances.cat([result, result]).info == INFO


def test_without_class_names_results_have_class_indices():
    plain = Instances((4, 5), pred_boxes=Boxes(torch.zeros(1, 4)), scores=torch.ones(1), pred_classes=torch.tensor([9]))
    assert plain.to_dict()["objects"] == [{"class": 9, "score": 1.0, "box": [0.0] * 4}]
    assert "class 9" in str(plain)


def test_a_printed_result_is_short_and_has_names():
    assert str(instances()).splitlines()[1].split() == ["dog", "0.750", "10.0", "20.0", "50.0", "60.0"]
    assert "0.75 (dog)" in str(instances()[torch.tensor([], dtype=torch.int64)])
    assert len(str(Instances.cat([instances()] * 40)).splitlines()) == 12
    assert str(Instances((4, 5), gt_classes=torch.zeros(1))).startswith("Instances(")


@pytest.mark.parametrize("make_result", [instances, detections])
def test_names_of_other_toolkits_raise_an_error_that_suggests_the_name_here(make_result):
    for name, suggestion in (("to_df", "to_pandas"), ("xyxy", "pred_boxes.tensor"), ("plot", "draw_detections")):
        with pytest.raises(AttributeError, match=suggestion):
            getattr(make_result(), name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = make_result().nothing
    assert pickle.loads(pickle.dumps(make_result())).info == INFO


def test_converting_annotations_raises_an_error():
    with pytest.raises(ValueError, match="pred_boxes.*gt_classes"):
        Instances((4, 5), gt_classes=torch.zeros(1)).to_dict()


@pytest.mark.parametrize(("package", "method"), [("pandas", "to_pandas"), ("supervision", "to_supervision")])
def test_a_missing_package_is_reported_with_the_extra_that_installs_it(monkeypatch, package, method):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{method}.*{package}.*detrex-lite\[results\]"):
        getattr(instances(), method)()


@pytest.mark.parametrize("make_result", [instances, detections])
def test_a_data_frame_has_a_row_for_each_object(make_result):
    pytest.importorskip("pandas")
    frame = make_result().to_pandas()
    assert frame["name"].tolist() == ["dog", "cat"]
    assert frame["category_id"].tolist() == [3, 7]
    assert frame[["x0", "y0", "x1", "y1"]].to_numpy().tolist() == BOXES
    assert list(make_result()[:0].to_pandas()) == list(frame)


@pytest.mark.parametrize("make_result", [instances, detections])
def test_results_become_detections_of_supervision(make_result):
    supervision = pytest.importorskip("supervision")
    converted = make_result().to_supervision()
    assert isinstance(converted, supervision.Detections)
    assert converted["class_name"].tolist() == ["dog", "cat"]
    np.testing.assert_array_equal(converted.xyxy, BOXES)
    assert make_result()[:0].to_supervision().is_empty()
