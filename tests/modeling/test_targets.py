import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import Targets
from detrex_lite.structures import Boxes, Instances

from .helpers import random_targets


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


def test_boxes_of_half_precision_models_are_float32():
    targets = Targets.from_inputs([make_input([[1.0, 1, 777, 9]], [0])], num_classes=1, like=torch.zeros(1).bfloat16())
    assert targets.boxes.dtype == torch.float32


def targets_with_masks(sizes=(2, 0, 3)):
    targets = random_targets(sizes)
    return replace(targets, extra={"masks": torch.arange(len(targets) * 4.0).view(-1, 2, 2), "area": torch.rand(5)})


def test_padded_boxes_have_an_area():
    inputs = [make_input([[20.0, 10, 60, 30], [0, 0, 200, 100]], [2, 1]), make_input([], [])]
    padded = Targets.from_inputs(inputs, num_classes=3, like=torch.zeros(1, dtype=torch.float64)).padded()
    assert padded.labels.tolist() == [[2, 1], [0, 0]]
    assert padded.boxes.shape == (2, 2, 4)
    assert padded.boxes.dtype == torch.float64
    assert (padded.boxes[..., 2:] > 0).all()
    assert padded.extra == {}


def test_additional_fields_are_padded_like_labels_and_boxes():
    targets = targets_with_masks()
    padded = targets.padded()
    first = 0
    for image, size in enumerate(targets.sizes):
        for name, value in {"labels": targets.labels, "boxes": targets.boxes, **targets.extra}.items():
            padded_value = getattr(padded, name) if name in ("labels", "boxes") else padded.extra[name]
            assert padded_value.shape == (3, 3, *value.shape[1:])
            assert_close(padded_value[image, :size], value[first : first + size], rtol=0, atol=0)
        assert not padded.labels[image, size:].any()
        assert not padded.extra["masks"][image, size:].any()
        first += size


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]])
def test_no_objects_can_be_padded_and_repeated(sizes):
    targets = replace(random_targets(sizes), extra={"masks": torch.zeros(0, 2, 2)})
    padded = targets.padded()
    assert padded.labels.shape == (len(sizes), 0)
    assert padded.boxes.shape == (len(sizes), 0, 4)
    assert padded.extra["masks"].shape == (len(sizes), 0, 2, 2)
    repeated = targets.repeated(3)
    assert (len(repeated), repeated.sizes) == (0, sizes)
    assert repeated.extra["masks"].shape == (0, 2, 2)


def test_repeated_objects_are_ordered_by_image_and_round():
    targets = targets_with_masks()
    repeated = targets.repeated(3)
    order = [0, 1] * 3 + [2, 3, 4] * 3
    assert repeated.sizes == [6, 0, 9]
    assert_close(repeated.labels, targets.labels[order], rtol=0, atol=0)
    assert_close(repeated.boxes, targets.boxes[order], rtol=0, atol=0)
    for name, value in targets.extra.items():
        assert_close(repeated.extra[name], value[order], rtol=0, atol=0)
    assert targets.repeated(1) is targets


def test_selected_objects_keep_all_fields():
    targets = targets_with_masks()
    index = torch.tensor([1, 4, 2])
    selected = targets.selected(index, [1, 0, 2])
    assert (selected.sizes, len(selected)) == ([1, 0, 2], 3)
    assert_close(selected.labels, targets.labels[index], rtol=0, atol=0)
    assert_close(selected.boxes, targets.boxes[index], rtol=0, atol=0)
    for name, value in targets.extra.items():
        assert_close(selected.extra[name], value[index], rtol=0, atol=0)


def test_class_agnostic_objects_differ_in_their_class_only():
    targets = targets_with_masks()
    agnostic = targets.class_agnostic()
    assert targets.labels.any()
    assert agnostic.labels.tolist() == [0] * 5
    assert agnostic.labels.dtype == torch.int64
    assert agnostic.boxes is targets.boxes
    assert agnostic.sizes == targets.sizes
    assert agnostic.extra is targets.extra


def test_targets_can_be_copied_and_pickled():
    targets = targets_with_masks()
    for copied in (copy.deepcopy(targets), pickle.loads(pickle.dumps(targets))):
        assert copied.sizes == targets.sizes
        assert_close(copied.boxes, targets.boxes, rtol=0, atol=0)
        assert_close(copied.extra["masks"], targets.extra["masks"], rtol=0, atol=0)


def test_errors_name_the_image():
    invalid_input = make_input([[0.0, 0, 1, 1]], [3]) | {"file_name": "a.jpg"}
    with pytest.raises(ValueError, match=r"a\.jpg.*label 3.*num_classes=3"):
        Targets.from_inputs([invalid_input], num_classes=3, like=torch.zeros(1))
    with pytest.raises(ValueError, match="number 0 .*no 'instances'"):
        Targets.from_inputs([{}], num_classes=3, like=torch.zeros(1))
