import copy
import pickle

import pytest
import torch

from detrex_lite.structures import Boxes, Instances


@pytest.fixture
def three():
    return Instances(
        (48, 64),
        gt_boxes=Boxes(torch.arange(12.0).reshape(3, 4)),
        gt_classes=torch.tensor([5, 6, 7]),
        names=["a", "b", "c"],
    )


def test_fields_read_as_attributes_and_by_name(three):
    assert three.image_size == (48, 64)
    assert len(three) == 3
    assert three.gt_classes.tolist() == [5, 6, 7]
    assert three.get("names") == ["a", "b", "c"]
    assert three.has("gt_boxes")
    assert not three.has("scores")
    assert list(three.get_fields()) == ["gt_boxes", "gt_classes", "names"]


def test_assignment_sets_fields_and_remove_takes_them_away(three):
    three.scores = torch.zeros(3)
    assert three.has("scores")
    three.scores = torch.ones(3)
    assert three.scores.tolist() == [1, 1, 1]
    three.remove("scores")
    assert not three.has("scores")


def test_a_field_of_another_length_is_refused(three):
    with pytest.raises(ValueError, match="field 'scores' has length 2, but 'gt_boxes' has 3"):
        three.scores = torch.zeros(2)
    with pytest.raises(ValueError, match="field 'b' has length 1, but 'a' has 0"):
        Instances((1, 1), a=[], b=[1])


def test_the_only_field_may_change_its_length():
    one = Instances((4, 4), scores=torch.zeros(3))
    one.scores = torch.zeros(5)
    assert len(one) == 5


def test_an_unknown_field_names_the_nearest(three):
    with pytest.raises(AttributeError, match="no field 'gt_class'; did you mean 'gt_classes'"):
        _ = three.gt_class
    with pytest.raises(AttributeError, match=r"no field 'scores'$"):
        _ = Instances((1, 1)).scores


def test_the_image_size_is_made_of_ints_and_stays(three):
    assert Instances((torch.tensor(3), 4.0)).image_size == (3, 4)
    with pytest.raises(AttributeError, match="image_size cannot be changed"):
        three.image_size = (1, 1)


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
def test_indexing_picks_from_every_field(three, item, rows):
    picked = three[item]
    assert picked.image_size == (48, 64)
    assert len(picked) == len(rows)
    assert picked.gt_classes.tolist() == [5 + row for row in rows]
    assert picked.gt_boxes.tensor[:, 0].tolist() == [4 * row for row in rows]
    assert picked.names == ["abc"[row] for row in rows]


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_out_of_range_is_refused(three, index):
    with pytest.raises(IndexError, match=f"index {index} is out of range for 3 instances"):
        _ = three[index]


def test_iteration_ends_and_gives_instances_of_one(three):
    assert [one.names for one in three] == [["a"], ["b"], ["c"]]


def test_cat_joins_tensors_boxes_and_lists(three):
    joined = Instances.cat([three, three[:0], three[2]])
    assert joined.gt_classes.tolist() == [5, 6, 7, 7]
    assert len(joined.gt_boxes) == 4
    assert joined.names == ["a", "b", "c", "c"]
    assert joined.image_size == (48, 64)


def test_cat_refuses_what_does_not_belong_together(three):
    with pytest.raises(ValueError, match="an empty list"):
        Instances.cat([])
    with pytest.raises(ValueError, match=r"image size \(48, 64\) .* and of \(1, 2\) with"):
        Instances.cat([three, Instances((1, 2), **three.get_fields())])
    with pytest.raises(ValueError, match=r"\['gt_boxes', 'gt_classes', 'names'\] and of \(48, 64\) with \['names'\]"):
        Instances.cat([three, Instances((48, 64), names=["d"])])


def test_to_converts_what_can_be_and_keeps_the_rest(three):
    moved = three.to(torch.float64)
    assert moved.gt_boxes.tensor.dtype == torch.float64
    assert moved.names == ["a", "b", "c"]
    assert three.gt_boxes.tensor.dtype == torch.float32


def test_without_fields_there_are_none():
    nothing = Instances((4, 4))
    assert len(nothing) == 0
    assert repr(nothing) == "Instances(num_instances=0, image_size=(4, 4), fields=[])"
    assert len(Instances((4, 4), gt_boxes=Boxes([]), gt_classes=torch.zeros(0))) == 0


def test_copies_and_pickles_are_whole(three):
    for other in (copy.deepcopy(three), copy.copy(three), pickle.loads(pickle.dumps(three))):
        assert other.image_size == (48, 64)
        torch.testing.assert_close(other.gt_boxes.tensor, three.gt_boxes.tensor)
        assert other.names == three.names
