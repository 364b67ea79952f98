import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import Targets
from detrex_lite.structures import Boxes, Instances


def make_input(boxes, classes, size=(100, 200)):
    return {"instances": Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes, dtype=torch.int64))}


def test_boxes_are_relative_to_their_own_image():
    inputs = [
        make_input([[20.0, 10, 60, 30]], [2]),
        make_input([], []),
        make_input([[0.0, 0, 50, 50]], [0], (50, 50)),
    ]
    targets = Targets.from_inputs(inputs, num_classes=3, like=torch.zeros(1))
    assert targets.sizes == [1, 0, 1]
    assert len(targets) == 2
    assert targets.labels.tolist() == [2, 0]
    assert_close(targets.boxes, torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]]))


def test_half_precision_models_get_boxes_in_float32():
    targets = Targets.from_inputs([make_input([[1.0, 1, 777, 9]], [0])], num_classes=1, like=torch.zeros(1).bfloat16())
    assert targets.boxes.dtype == torch.float32


def test_padding():
    inputs = [make_input([[20.0, 10, 60, 30], [0, 0, 200, 100]], [2, 1]), make_input([], [])]
    labels, boxes = Targets.from_inputs(inputs, num_classes=3, like=torch.zeros(1, dtype=torch.float64)).padded()
    assert labels.tolist() == [[2, 1], [0, 0]]
    assert boxes.shape == (2, 2, 4)
    assert boxes.dtype == torch.float64
    assert (boxes[..., 2:] > 0).all()


def test_errors_name_the_image():
    wrong = make_input([[0.0, 0, 1, 1]], [3]) | {"file_name": "a.jpg"}
    with pytest.raises(ValueError, match=r"image a.jpg has label 3, but the model has num_classes=3 \(labels 0..2\)"):
        Targets.from_inputs([wrong], num_classes=3, like=torch.zeros(1))
    with pytest.raises(ValueError, match="image number 0 of the batch has no 'instances'"):
        Targets.from_inputs([{}], num_classes=3, like=torch.zeros(1))
