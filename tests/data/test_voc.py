from functools import partial

import pytest
import torch

from detrex_lite.data import DatasetError, load_coco, load_voc
from detrex_lite.data.check import check_dataset
from detrex_lite.data.voc import read_voc

from .samples import assert_same_record, object_xml, write_image, write_same_content_twice, write_xml


def test_voc_and_coco_files_of_the_same_content_give_equal_data_sets(tmp_path):
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


def test_classes_come_from_all_files_of_the_folder(tmp_path):
    write_xml(tmp_path, "a", [object_xml("zebra", (1, 1, 9, 9))])
    write_xml(tmp_path, "b", [object_xml("ant", (1, 1, 9, 9))])
    (tmp_path / "train.txt").write_text("a\n\n")
    dataset = load_voc(tmp_path / "annotations", tmp_path / "images", tmp_path / "train.txt")
    assert dataset.class_names == ("ant", "zebra")
    assert dataset.name == "train"
    assert (len(dataset), dataset[0]["classes"].tolist()) == (1, [1])
    assert len(load_voc(tmp_path / "annotations", tmp_path / "images")) == 2


def test_class_names_of_the_caller_keep_their_order(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9))])
    dataset = load_voc(tmp_path / "annotations", tmp_path / "images", class_names=["zebra", "ant"])
    assert dataset.class_names == ("zebra", "ant")
    assert dataset[0]["classes"].tolist() == [1]
    with pytest.raises(DatasetError, match=r"a.xml: object 1: .*'ant' is not among .*'aunt'"):
        load_voc(tmp_path / "annotations", tmp_path / "images", class_names=["zebra", "aunt"])


def test_coordinates_start_at_0_or_at_1(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 60, 40))])
    zero_based = load_voc(tmp_path / "annotations", tmp_path / "images")[0]["boxes"]
    torch.testing.assert_close(zero_based, torch.tensor([[1.0, 1, 60, 40]]))
    one_based = load_voc(tmp_path / "annotations", tmp_path / "images", one_based=True)[0]["boxes"]
    torch.testing.assert_close(one_based, torch.tensor([[0.0, 0, 60, 40]]))


def test_difficult_objects_are_ignored_unless_requested(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9), difficult=1), object_xml("ant", (2, 2, 9, 9))])
    dataset = load_voc(tmp_path / "annotations", tmp_path / "images")
    assert dataset[0]["iscrowd"].tolist() == [True, False]
    assert dataset.objects_per_image().tolist() == [1]
    with_difficult = load_voc(tmp_path / "annotations", tmp_path / "images", use_difficult=True)
    assert with_difficult[0]["iscrowd"].tolist() == [False, False]


@pytest.mark.parametrize(
    ("files", "file_name", "expected"),
    [
        # The name of the XML file comes first, because <filename> is often outdated.
        (["a.png", "b.png"], "b.png", "a.png"),
        (["a.jpg", "a.png"], "a.png", "a.png"),
        (["a.JPEG"], "whatever", "a.JPEG"),
        (["photo.png"], "folder/photo.png", "photo.png"),
        (["a.txt"], "a.png", "a.png"),  # no image exists; reading it raises the error later
    ],
)
def test_image_is_looked_up_by_stem_and_by_filename(tmp_path, files, file_name, expected):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9))], file_name=file_name)
    for name in files:
        (tmp_path / "images" / name).touch()
    dataset = load_voc(tmp_path / "annotations", tmp_path / "images")
    assert dataset[0]["file_name"] == str(tmp_path / "images" / expected)


def test_size_of_zero_is_read_from_the_image(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9))], size=(0, 0))
    with pytest.raises(DatasetError, match=r"a.xml: .*image .*a.png does not exist"):
        load_voc(tmp_path / "annotations", tmp_path / "images")
    write_image(tmp_path / "images/a.png", 33, 44)
    record = load_voc(tmp_path / "annotations", tmp_path / "images", name="again")[0]
    assert (record["height"], record["width"]) == (33, 44)


def test_faults_are_reported_with_file_and_object(tmp_path):
    images = tmp_path / "images"
    annotations = tmp_path / "annotations"
    good = object_xml("ant", (1, 1, 9, 9))
    for objects, message in [
        (
            [good, object_xml("ant", ("left", 1, 9, 9))],
            r"a.xml: object 2: <bndbox> needs .*'left'",
        ),
        ([good, "<object><name>ant</name></object>"], r"a.xml: object 2: <bndbox> needs"),
        ([good, object_xml("ant", (1, 1, 9, 9), difficult="no")], r"object 2: .*<difficult> must be 0 or 1"),
        ([good, "<object></object>"], r"object 2: 'name' must not be blank"),
        ([good, "<object>"], r"a.xml: .* not valid XML"),
        ([], r"no object with a name"),
    ]:
        write_xml(tmp_path, "a", objects)
        with pytest.raises(DatasetError, match=message):
            load_voc(annotations, images)
    write_xml(tmp_path, "a", [good], size=("tall", 3))
    with pytest.raises(DatasetError, match=r"a.xml: <height> .* number.*'tall'"):
        load_voc(annotations, images)


def test_missing_files_raise_an_error_with_their_names(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9))])
    annotations, images, split = tmp_path / "annotations", tmp_path / "images", tmp_path / "train.txt"
    with pytest.raises(DatasetError, match=r"annotation folder .*nowhere does not exist"):
        load_voc(tmp_path / "nowhere", images)
    with pytest.raises(DatasetError, match=r"its image folder .*nowhere does not exist"):
        load_voc(annotations, tmp_path / "nowhere")
    split.write_text("a\nb\n")
    with pytest.raises(DatasetError, match=r"line 2: .*b.xml' does not exist"):
        load_voc(annotations, images, split)
    with pytest.raises(DatasetError, match=r"trian.txt does not exist; did you mean .*train.txt"):
        load_voc(annotations, images, tmp_path / "trian.txt")
    with pytest.raises(DatasetError, match=r"split file .* cannot be read"):
        load_voc(annotations, images, images)
    split.write_text("a\na\n")
    with pytest.raises(DatasetError, match=r"train.txt: line 2: 'a' is listed twice"):
        load_voc(annotations, images, split)
    split.write_text("\n")
    with pytest.raises(DatasetError, match=r"train.txt: .* not one image"):
        load_voc(annotations, images, split)


def test_loading_twice_gives_the_same_object_until_a_file_changes(tmp_path):
    write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9))])
    first = load_voc(tmp_path / "annotations", tmp_path / "images")
    assert load_voc(tmp_path / "annotations", tmp_path / "images") is first
    write_xml(tmp_path, "b", [object_xml("ant", (1, 1, 9, 9))])
    assert len(load_voc(tmp_path / "annotations", tmp_path / "images")) == 2


def list_faults(folder, split=None):
    """Kind and text of all faults, without those of missing images, because these tests write no images."""
    report = check_dataset(partial(read_voc, str(folder / "annotations"), str(folder / "images"), split))
    return [(fault.kind, str(fault)) for fault in report.faults if fault.kind != "image missing"]


def write_one_object(folder, stem="a", **options):
    return write_xml(folder, stem, [object_xml("ant", (1, 1, 9, 9))], **options)


@pytest.mark.parametrize("size", ["1e999", "1e30", "-5", "12.5", "nan", "16777217"])
def test_impossible_sizes_are_faults(tmp_path, size):
    path = write_one_object(tmp_path, size=(40, size))
    with pytest.raises(DatasetError, match=rf"{path}: 'width' must be "):
        load_voc(path.parent, tmp_path / "images")
    [(kind, text)] = [fault for fault in list_faults(tmp_path) if fault[0] != "no images"]
    assert (kind, text.startswith(f"{path}: 'width' must be ")) == ("malformed entry", True)


@pytest.mark.parametrize("encoding", ["no-such", "gbk"])
def test_unsupported_encodings_of_xml_are_faults(tmp_path, encoding):
    path = write_one_object(tmp_path)
    write_one_object(tmp_path, "b")
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?>' + path.read_text())
    with pytest.raises(DatasetError, match=rf"{path}: its encoding cannot be read"):
        load_voc(path.parent, tmp_path / "images")
    assert [kind for kind, _ in list_faults(tmp_path)] == ["malformed file"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_xml_is_read_in_its_encoding(tmp_path, encoding):
    path = write_xml(tmp_path, "a", [object_xml("fourmi\u00e9", (1, 1, 9, 9))])
    header = '<?xml version="1.0" encoding="latin-1"?>' if encoding == "latin-1" else ""
    path.write_text(header + path.read_text(), encoding=encoding)
    assert load_voc(path.parent, tmp_path / "images").class_names == ("fourmi\u00e9",)


def test_broken_links_are_faults(tmp_path):
    path = write_one_object(tmp_path)
    path.with_name("b.xml").symlink_to(tmp_path / "gone.xml")
    with pytest.raises(DatasetError, match=r"b.xml: .* link to a file that does not exist"):
        load_voc(path.parent, tmp_path / "images")
    assert [kind for kind, _ in list_faults(tmp_path)] == ["missing file"]


@pytest.mark.parametrize(
    ("text", "difficult"),
    [("Unspecified", False), ("false", False), ("", False), ("0", False), ("True", True), (" 1 ", True)],
)
def test_spellings_of_difficult_are_read(tmp_path, text, difficult):
    path = write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9), difficult=text)])
    assert load_voc(path.parent, tmp_path / "images")[0]["iscrowd"].tolist() == [difficult]


@pytest.mark.parametrize("text", ["2", "maybe", "[1]"])
def test_an_invalid_difficult_is_not_reported_as_a_fault_of_the_box(tmp_path, text):
    path = write_xml(tmp_path, "a", [object_xml("ant", (1, 1, 9, 9), difficult=text)])
    with pytest.raises(DatasetError, match="<difficult> must be 0 or 1, got ") as raised:
        load_voc(path.parent, tmp_path / "images")
    assert "bndbox" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_splits_of_windows_editors_are_read(tmp_path, encoding):
    path = write_one_object(tmp_path, "caf\u00e9")
    split = tmp_path / "train.txt"
    split.write_text("caf\u00e9\r\n", encoding=encoding)
    assert len(load_voc(path.parent, tmp_path / "images", split)) == 1


def test_splits_in_another_encoding_are_faults(tmp_path):
    path = write_one_object(tmp_path)
    split = tmp_path / "train.txt"
    split.write_text("caf\u00e9", encoding="latin-1")
    with pytest.raises(DatasetError, match=r"train.txt cannot be read .*0xe9"):
        load_voc(path.parent, tmp_path / "images", split)
    assert [kind for kind, _ in list_faults(tmp_path, str(split))] == ["unreadable"]


def test_lines_of_a_split_that_are_not_names_are_faults(tmp_path):
    path = write_one_object(tmp_path)
    write_one_object(tmp_path, "my photo 1")
    split = tmp_path / "train.txt"
    split.write_text("a  1\na.jpg\nimages/a.jpg\na\x00\nc\nmy photo 1\n")
    with pytest.raises(DatasetError, match=r"train.txt: line 1: 'a  1' has more than a name"):
        load_voc(path.parent, tmp_path / "images", split)
    faults = list_faults(tmp_path, str(split))
    assert [(kind, text.partition(": line ")[2][0]) for kind, text in faults] == [
        ("malformed line", "1"),
        ("malformed line", "2"),
        ("malformed line", "3"),
        ("missing file", "4"),
        ("missing file", "5"),
    ]
    assert "'a.jpg' has an extension" in faults[1][1]


def test_upper_case_extensions_are_read_and_two_files_of_one_name_are_a_fault(tmp_path):
    path = write_one_object(tmp_path)
    capital = path.rename(path.with_suffix(".XML"))
    split = tmp_path / "train.txt"
    split.write_text("a\n")
    assert len(load_voc(path.parent, tmp_path / "images")) == 1
    assert len(load_voc(path.parent, tmp_path / "images", split)) == 1
    path.write_text(capital.read_text())
    with pytest.raises(DatasetError, match=r"a.xml: it has the same name as .*a.XML"):
        load_voc(path.parent, tmp_path / "images")
    capital.unlink()
    path.unlink()
    with pytest.raises(DatasetError, match=r"annotation folder .*annotations has no .xml file"):
        load_voc(path.parent, tmp_path / "images")


def test_xml_namespaces_are_faults(tmp_path):
    path = write_one_object(tmp_path)
    path.write_text(path.read_text().replace("<annotation>", '<annotation xmlns="http://example.com/voc">'))
    with pytest.raises(DatasetError, match=r"a.xml: .*<annotation> .* namespace 'http://example"):
        load_voc(path.parent, tmp_path / "images")
    assert "malformed file" in [kind for kind, _ in list_faults(tmp_path)]


def test_unprintable_names_and_images_of_two_files_are_faults(tmp_path):
    path = write_xml(tmp_path, "a", [object_xml("an&#10;t", (1, 1, 9, 9)), object_xml("ant", (1, 1, 9, 9))])
    with pytest.raises(DatasetError, match=r"a.xml: object 1: 'name' holds '\\n'"):
        load_voc(path.parent, tmp_path / "images")
    write_one_object(tmp_path, file_name="a&#9;b.png")
    with pytest.raises(DatasetError, match=r"a.xml: 'filename' holds '\\t'"):
        load_voc(path.parent, tmp_path / "images")
    for stem in ("a", "b"):
        write_one_object(tmp_path, stem, file_name="photo.png")
    with pytest.raises(DatasetError, match=r"b.xml: its image photo.png is also that of .*a.xml"):
        load_voc(path.parent, tmp_path / "images")
    assert [kind for kind, _ in list_faults(tmp_path)] == ["duplicate file"]


def test_deeply_nested_xml_is_read(tmp_path):
    path = write_one_object(tmp_path)
    path.write_text(path.read_text().replace("<size>", "<x>" * 50_000 + "</x>" * 50_000 + "<size>"))
    assert load_voc(path.parent, tmp_path / "images").num_boxes == 1
