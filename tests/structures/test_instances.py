import copy
import pickle

import pytest
import torch

from detrex_lite.structures import Boxes, Instances


@pytest.fixture
def three_objects():
    return Instances(
        (48, 64),
        gt_boxes=Boxes(torch.arange(12.0).reshape(3, 4)),
        gt_classes=torch.tensor([5, 6, 7]),
        names=["a", "b", "c"],
    )


def test_fields_read_as_attributes_and_by_name(three_objects):
    assert three_objects.image_size == (48, 64)
    assert len(three_objects) == 3
    assert three_objects.gt_classes.tolist() == [5, 6, 7]
    assert three_objects.get("names") == ["a", "b", "c"]
    assert three_objects.has("gt_boxes")
    assert not three_objects.has("scores")
    assert list(three_objects.get_fields()) == ["gt_boxes", "gt_classes", "names"]


def test_assignment_sets_fields_and_remove_deletes_them(three_objects):
    three_objects.scores = torch.zeros(3)
    assert three_objects.has("scores")
    three_objects.scores = torch.ones(3)
    assert three_objects.scores.tolist() == [1, 1, 1]
    three_objects.remove("scores")
    assert not three_objects.has("scores")


def test_a_field_of_another_length_raises_an_error(three_objects):
    with pytest.raises(ValueError, match="'scores' has length 2, but 'gt_boxes' has 3"):
        three_objects.scores = torch.zeros(2)
    with pytest.raises(ValueError, match="'b' has length 1, but 'a' has 0"):
        Instances((1, 1), a=[], b=[1])


def test_the_only_field_may_change_its_length():
    instances = Instances((4, 4), scores=torch.zeros(3))
    instances.scores = torch.zeros(5)
    assert len(instances) == 5


def test_an_unknown_field_raises_an_error_with_the_closest_name(three_objects):
    with pytest.raises(AttributeError, match="no field 'gt_class'; did you mean 'gt_classes'"):
        _ = three_objects.gt_class
    with pytest.raises(AttributeError, match=r"no field 'scores'$"):
        _ = Instances((1, 1)).scores


def test_image_size_is_converted_to_ints_and_is_read_only(three_objects):
    assert Instances((torch.tensor(3), 4.0)).image_size == (3, 4)
    with pytest.raises(AttributeError, match="image_size cannot be changed"):
        three_objects.image_size = (1, 1)


@pytest.mark.parametrize(
    ("item", "rows"),
    [
        (0, [0]),
        (-1, [2]),
        (-3, [0]),
        (slice(1, None), [1, 2]),
        (slice(0, 0), []),
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.zeros(3, dtype=torch.bool), []),
        (torch.zeros(0, dtype=torch.long), []),
    ],
)
def test_indexing_selects_from_every_field(three_objects, item, rows):
    picked = three_objects[item]
    assert picked.image_size == (48, 64)
    assert len(picked) == len(rows)
    assert picked.gt_classes.tolist() == [5 + row for row in rows]
    assert picked.gt_boxes.tensor[:, 0].tolist() == [4 * row for row in rows]
    assert picked.names == ["abc"[row] for row in rows]


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_out_of_range_raises_an_error(three_objects, index):
    with pytest.raises(IndexError, match=f"index {index} is out of range for 3 instances"):
        _ = three_objects[index]


def test_iteration_yields_instances_of_one_object(three_objects):
    assert [instances.names for instances in three_objects] == [["a"], ["b"], ["c"]]


def test_cat_joins_tensors_boxes_and_lists(three_objects):
    joined = Instances.cat([three_objects, three_objects[:0], three_objects[2]])
    assert joined.gt_classes.tolist() == [5, 6, 7, 7]
    assert len(joined.gt_boxes) == 4
    assert joined.names == ["a", "b", "c", "c"]
    assert joined.image_size == (48, 64)


def test_cat_of_different_sizes_or_fields_raises_an_error(three_objects):
    with pytest.raises(ValueError, match="an empty list"):
        Instances.cat([])
    with pytest.raises(ValueError, match=r"image size \(48, 64\) .* and of \(1, 2\) with"):
        Instances.cat([three_objects, Instances((1, 2), **three_objects.get_fields())])
    with pytest.raises(ValueError, match=r"\['gt_boxes', 'gt_classes', 'names'\] and of \(48, 64\) with \['names'\]"):
        Instances.cat([three_objects, Instances((48, 64), names=["d"])])


def test_to_converts_tensors_and_keeps_other_fields(three_objects):
    moved = three_objects.to(torch.float64)
    assert moved.gt_boxes.tensor.dtype == torch.float64
    assert moved.names == ["a", "b", "c"]
    assert three_objects.gt_boxes.tensor.dtype == torch.float32


def test_instances_without_fields_are_empty():
    empty = Instances((4, 4))
    assert len(empty) == 0
    assert repr(empty) == "Instances(num_instances=0, image_size=(4, 4), fields=[])"
    assert len(Instances((4, 4), gt_boxes=Boxes([]), gt_classes=torch.zeros(0))) == 0


def test_copies_and_pickles_keep_all_fields(three_objects):
    for copied in (copy.deepcopy(three_objects), copy.copy(three_objects), pickle.loads(pickle.dumps(three_objects))):
        assert copied.image_size == (48, 64)
        torch.testing.assert_close(copied.gt_boxes.tensor, three_objects.gt_boxes.tensor)
        assert copied.names == three_objects.names
