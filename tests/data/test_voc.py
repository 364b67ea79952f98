import pytest
import torch

from detrex_lite.data import DatasetError, load_coco, load_voc

from .samples import assert_same_record, object_xml, write_image, write_same_content_twice, write_xml


def test_voc_and_coco_of_the_same_content_are_identical(tmp_path):
    write_same_content_twice(tmp_path)
    coco = load_coco(tmp_path / "instances.json", tmp_path / "images")
    voc = load_voc(tmp_path / "annotations", tmp_path / "images", tmp_path / "split.txt")
    assert voc.class_names == coco.class_names == ("cat", "dog")
    assert voc.category_ids == coco.category_ids
    assert voc.dropped == coco.dropped == {"without area": 1}
    assert voc.clipped == coco.clipped == 1
    assert len(voc) == len(coco) == 4
    for left, right in zip(voc, coco, strict=True):
        assert_same_record(left, right)


def test_classes_come_from_the_whole_folder_so_that_splits_agree(tmp_path):
    write_xml(tmp_path, "a", [object_xml("zebra", (1, 1, 9, 9))])
    write_xml(tmp_path, "b", [object_xml("ant", (1, 1, 9, 9))])
    (tmp_path / "train.txt").write_text("a\n\n")
    dataset = load_voc(tmp_path / "annotations", tmp_path / "images", tmp_path / "train.txt")
    assert dataset.class_names == ("ant", "zebra")
    assert dataset.name == "train"
    assert (len(dataset), dataset[0]["classes"].tolist()) == (1, [1])
    assert len(load_voc(tmp_path / "annotations", tmp_path / "images")) == 2


def test_given_classes_keep_their_order(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9))])
    dataset = load_voc(tmp_path / "annotations", tmp_path / "images", class_names=["zebra", "ant"])
    assert dataset.class_names == ("zebra", "ant")
    assert dataset[0]["classes"].tolist() == [1]
    with pytest.raises(
        DatasetError, match=r"a.xml: object 1: its class 'ant' is not among the classes; did you mean 'aunt'"
    ):
        load_voc(tmp_path / "annotations", tmp_path / "images", class_names=["zebra", "aunt"])


def test_coordinates_are_taken_as_they_are_or_as_one_based(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 60, 40))])
    as_they_are = load_voc(tmp_path / "annotations", tmp_path / "images")[0]["boxes"]
    torch.testing.assert_close(as_they_are, torch.tensor([[1.0, 1, 60, 40]]))
    official = load_voc(tmp_path / "annotations", tmp_path / "images", one_based=True)[0]["boxes"]
    torch.testing.assert_close(official, torch.tensor([[0.0, 0, 60, 40]]))


def test_difficult_objects_are_ignored_unless_asked_for(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9), difficult=1), object_xml("ant", (2, 2, 9, 9))])
    dataset = load_voc(tmp_path / "annotations", tmp_path / "images")
    assert dataset[0]["iscrowd"].tolist() == [True, False]
    assert dataset.objects_per_image().tolist() == [1]
    used = load_voc(tmp_path / "annotations", tmp_path / "images", use_difficult=True)
    assert used[0]["iscrowd"].tolist() == [False, False]


@pytest.mark.parametrize(
    ("files", "named", "found"),
    [
        (["a.png", "b.png"], "b.png", "a.png"),  # the XML's own name goes first: <filename> is often stale
        (["a.jpg", "a.png"], "a.png", "a.png"),
        (["a.JPEG"], "whatever", "a.JPEG"),
        (["photo.png"], "folder/photo.png", "photo.png"),
        (["a.txt"], "a.png", "a.png"),  # not there: the error comes when the image is read
    ],
)
def test_image_is_found_by_stem_or_by_filename(tmp_path, files, named, found):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9))], file_name=named)
    for name in files:
        (tmp_path / "images" / name).touch()
    dataset = load_voc(tmp_path / "annotations", tmp_path / "images")
    assert dataset[0]["file_name"] == str(tmp_path / "images" / found)


def test_size_is_read_from_the_image_where_the_file_says_zero(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9))], size=(0, 0))
    with pytest.raises(DatasetError, match=r"a.xml: .*image .*a.png does not exist"):
        load_voc(tmp_path / "annotations", tmp_path / "images")
    write_image(tmp_path / "images/a.png", 33, 44)
    record = load_voc(tmp_path / "annotations", tmp_path / "images", name="again")[0]
    assert (record["height"], record["width"]) == (33, 44)


def test_faults_are_named_with_file_and_object(tmp_path):
    images = tmp_path / "images"
    annotations = tmp_path / "annotations"
    good = object_xml("ant", (1, 1, 9, 9))
    for objects, message in [
        (
            [good, object_xml("ant", ("left", 1, 9, 9))],
            r"a.xml: object 2: <bndbox> needs the numbers .*'left'",
        ),
        ([good, "<object><name>ant</name></object>"], r"a.xml: object 2: <bndbox> needs the numbers"),
        ([good, object_xml("ant", (1, 1, 9, 9), difficult="no")], r"object 2: .*<difficult> is 0 or 1"),
        ([good, "<object></object>"], r"object 2: its class '' is not among the classes"),
        ([good, "<object>"], r"a.xml: it is not valid XML: mismatched tag"),
        ([], r"there is not one named object"),
    ]:
        write_xml(tmp_path, "a", objects)
        with pytest.raises(DatasetError, match=message):
            load_voc(annotations, images)
    write_xml(tmp_path, "a", [good], size=("tall", 3))
    with pytest.raises(DatasetError, match=r"a.xml: height and width must be numbers, got 'tall' and '3'"):
        load_voc(annotations, images)


def test_missing_files_are_named(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9))])
    annotations, images, split = tmp_path / "annotations", tmp_path / "images", tmp_path / "train.txt"
    with pytest.raises(DatasetError, match=r"annotation folder .*nowhere does not exist"):
        load_voc(tmp_path / "nowhere", images)
    with pytest.raises(DatasetError, match=r"its image folder .*nowhere does not exist"):
        load_voc(annotations, tmp_path / "nowhere")
    split.write_text("a\nb\n")
    with pytest.raises(DatasetError, match=r"b.xml: this annotation file does not exist"):
        load_voc(annotations, images, split)
    with pytest.raises(DatasetError, match=r"trian.txt does not exist; did you mean .*train.txt"):
        load_voc(annotations, images, tmp_path / "trian.txt")
    with pytest.raises(DatasetError, match=r"split file .* cannot be read"):
        load_voc(annotations, images, images)
    split.write_text("a\na\n")
    with pytest.raises(DatasetError, match=r"train.txt: line 2: 'a' is listed twice"):
        load_voc(annotations, images, split)
    split.write_text("\n")
    with pytest.raises(DatasetError, match=r"train.txt: there is not one image"):
        load_voc(annotations, images, split)


def test_loading_twice_gives_the_same_object_until_a_file_changes(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9))])
    first = load_voc(tmp_path / "annotations", tmp_path / "images")
    assert load_voc(tmp_path / "annotations", tmp_path / "images") is first
    write_xml(tmp_path, "b", [object_xml("ant", (1, 1, 9, 9))])
    assert len(load_voc(tmp_path / "annotations", tmp_path / "images")) == 2
