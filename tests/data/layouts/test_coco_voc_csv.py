"""Variants of COCO, VOC and CSV folders that users have, and errors of malformed folders."""

import json

import pytest

from detrex_lite.data import DatasetError, find_dataset, generate_shapes
from detrex_lite.data.check_folder import check_folder
from detrex_lite.data.faults import FaultLog

from ..samples import object_xml, write_image, write_xml
from . import samples
from .test_finding import contents


def all_contents(dataset):
    """The merged contents of the training and validation splits."""
    return {**contents(dataset.load("train")), **contents(dataset.load("val"))}


def official_coco(root):
    for split, stems in (("train", "ab"), ("val", "cd")):
        samples.write_json(root / f"annotations/instances_{split}2017.json", samples.coco_content(stems))
        samples.write_json(root / f"annotations/person_keypoints_{split}2017.json", samples.coco_content(stems))
        samples.write_json(root / f"annotations/captions_{split}2017.json", {"images": [], "annotations": []})
        samples.write_images(root / f"{split}2017", stems)
    panoptic = samples.coco_content("ab")
    panoptic["annotations"] = [{"image_id": 1, "file_name": "a.png", "segments_info": []}]
    samples.write_json(root / "annotations/panoptic_train2017.json", panoptic)
    return root


def coco_files_next_to_images(root):
    for split, stems in (("train", "ab"), ("val", "cd")):
        samples.write_json(root / f"{split}.json", samples.coco_content(stems))
    samples.write_json(root / "results.json", [{"image_id": 1}])
    samples.write_json(root / "everything.json", samples.coco_content())
    samples.write_images(root / "photos")
    return root


@pytest.mark.parametrize(
    ("write", "remarks"),
    [(official_coco, ["panoptic"]), (coco_files_next_to_images, ["everything.json is not used"])],
)
def test_coco_folders_are_detected(tmp_path, write, remarks):
    dataset = find_dataset(write(tmp_path))
    assert (dataset.layout, dataset.splits, dataset.category_ids) == ("COCO", ("train", "val"), (1, 2))
    assert all_contents(dataset) == samples.OBJECTS
    assert len(dataset.remarks) == len(remarks)
    assert all(part in remark for part, remark in zip(remarks, dataset.remarks, strict=True))


def test_panoptic_pngs_are_not_used_as_images(tmp_path):
    generate_shapes(tmp_path, num_train=8, num_val=2, image_size=32)
    (tmp_path / "panoptic").rename(tmp_path / "a_panoptic")
    dataset = find_dataset(tmp_path)
    assert dataset.has_masks
    assert [part.images for part in dataset.parts.values()] == [str(tmp_path / f"images/{s}") for s in ("train", "val")]
    assert check_folder(tmp_path, masks=True).all_faults == []


def test_the_dummy_category_of_an_export_is_not_a_class(tmp_path):
    root = samples.roboflow(tmp_path)
    dataset = find_dataset(root)
    assert dataset.category_ids == (1, 2)
    [remark] = dataset.remarks
    assert "'animals' (id 0) is not used" in remark
    assert f"note: {remark}" not in str(check_folder(root))  # the remark is printed once
    assert remark in str(check_folder(root))
    for split in samples.SPLITS:  # Roboflow may also give the dummy category the name of a class
        file = root / split / "_annotations.coco.json"
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = "cat"
        for category in content["categories"][1:]:
            category["supercategory"] = "cat"
        samples.write_json(file, content)
    assert find_dataset(root).class_names == ("cat", "dog")
    content["annotations"][0]["category_id"] = 0  # a category with a box is a class
    content["categories"][0]["name"] = "animals"
    for category in content["categories"][1:]:
        category["supercategory"] = "animals"
    samples.write_json(root / "train/_annotations.coco.json", {**content, "images": content["images"]})
    samples.write_json(file, content)
    assert find_dataset(root).class_names == ("animals", "cat", "dog")


def test_categories_of_all_splits_are_merged(tmp_path):
    root = coco_files_next_to_images(tmp_path)
    content = samples.coco_content("ab", [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 7, "name": "owl"}])
    samples.write_json(root / "train.json", content)
    dataset = find_dataset(root)
    assert dataset.load("val").class_names == dataset.class_names == ("cat", "dog", "owl")
    report = check_folder(root)
    assert report.all_faults == []
    assert any("'owl' has no box in any split" in remark for remark in report.remarks)
    content["categories"][1]["name"] = "wolf"
    samples.write_json(root / "train.json", content)
    with pytest.raises(DatasetError, match=r"category 2 .*'wolf' in train.json .*'dog' in val.json"):
        find_dataset(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "train_old.json").write_text((root / "train.json").read_text()), "2 COCO files"),
        (lambda root: (root / "photos").rename(root.parent / "elsewhere"), r"none of its images is in .*, e.g. a.png"),
        (lambda root: (root / "train.json").write_text('{"images" "categories"'), "is not valid JSON"),
    ],
)
def test_malformed_coco_folders_raise_an_error(tmp_path, change, message):
    root = coco_files_next_to_images(tmp_path / "data")
    change(root)
    with pytest.raises(DatasetError, match=message):
        find_dataset(root)


def voc_files_next_to_images(root):
    """Write VOC files like Roboflow: XML files next to the images of each split."""
    for split, stems in samples.SPLITS.items():
        samples.write_images(root / split, stems)
        for stem in stems:
            path = write_xml(root, stem, [object_xml(name, box) for name, box in samples.OBJECTS[stem]])
            path.rename(root / split / path.name)
    for name in ("annotations", "images"):
        (root / name).rmdir()
    return root


def voc_with_lists_in_the_root(root):
    samples.voc(root)
    for name in ("train", "val"):
        (root / f"ImageSets/Main/{name}.txt").rename(root / f"{name}.txt")
    (root / "readme.txt").write_text("train and val\n")
    (root / "ImageSets/Main/cat_train.txt").write_text("a 1\nb -1\n")
    return root


@pytest.mark.parametrize("write", [voc_files_next_to_images, voc_with_lists_in_the_root])
def test_voc_folders_are_detected(tmp_path, write):
    dataset = find_dataset(write(tmp_path))
    assert (dataset.layout, dataset.splits, dataset.remarks) == ("Pascal VOC", ("train", "val"), ())
    assert all_contents(dataset) == samples.OBJECTS
    with pytest.raises(DatasetError, match="boxes only"):
        dataset.load("train", masks=True)


def test_published_voc_files_are_one_based(tmp_path):
    samples.voc(tmp_path)
    for path in (tmp_path / "Annotations").iterdir():
        text = path.read_text().replace("<size>", "<source><database>The VOC2007 Database</database></source><size>")
        path.write_text(text)
    assert find_dataset(tmp_path).load("train")[0]["boxes"].tolist() == [[4, 5, 25, 30], [0, 0, 60, 40]]


CSV_FORMS = {
    "with the size of boxes": "image,label,x,y,width,height\na.png,cat,5,6,20,24\na.png,dog,0,0,60,40\n"
    "b.png,dog,10,10,20.5,20\nc.png,,,,,\nd.png,cat,1,2,2,2\n",
    "corners and semicolons": "Image Name;Class Name;x1;y1;x2;y2\na.png;cat;5;6;25;30\na.png;dog;0;0;60;40\n"
    "b.png;dog;10;10;30.5;30\nc.png\n\nd.png;cat;1;2;3;4\n",
    "ids and fractions": "ImageID,LabelName,XMin,XMax,YMin,YMax\n"
    f"a,cat,{5 / 60},{25 / 60},{6 / 40},{30 / 40}\na,dog,0,1,0,1\nb,dog,{10 / 60},{30.5 / 60},0.25,0.75\nc,,,,,\n"
    f"d,cat,{1 / 60},{3 / 60},0.05,0.1\n",
    "foreign paths and splits": "path,split,class,xmin,ymin,xmax,ymax\n"
    "/content/x/a.png,TRAIN,cat,5,6,25,30\n/content/x/a.png,TRAIN,dog,0,0,60,40\n"
    "/content/x/b.png,TRAIN,dog,10,10,30.5,30\nC:\\y\\c.png,valid,,,,,\n/content/x/d.png,valid,cat,1,2,3,4\n",
}


@pytest.mark.parametrize("form", CSV_FORMS)
def test_csv_tables_are_detected(tmp_path, form):
    samples.write_images(tmp_path / "photos")
    (tmp_path / "boxes.csv").write_text(CSV_FORMS[form])
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "CSV"
    assert (dataset.drawn is None) == (form == "foreign paths and splits")
    for stem, objects in all_contents(dataset).items():
        assert [name for name, _ in objects] == [name for name, _ in samples.OBJECTS[stem]]
        for (_, box), (_, expected) in zip(objects, samples.OBJECTS[stem], strict=True):
            assert box == pytest.approx(expected, abs=1e-5)
    assert len(dataset.load("train")) + len(dataset.load("val")) == 4
    assert any("0..1" in remark for remark in dataset.remarks) == (form == "ids and fractions")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png,cat,5,6,x,30", ".*xmax .* number.*'x'"),
        ("a.png,,5,6,20,30", ".*class is ''"),
        (",cat,5,6,20,30", ".*filename is empty"),
    ],
)
def test_malformed_csv_lines_raise_an_error_with_their_number(tmp_path, line, message):
    samples.write_images(tmp_path)
    (tmp_path / "val.csv").write_text(f"filename,class,xmin,ymin,xmax,ymax\nb.png,cat,1,1,9,9\n\n{line}\n")
    dataset = find_dataset(tmp_path)
    with pytest.raises(DatasetError, match=f"val.csv: line 4: {message}"):
        dataset.load("val")
    log = FaultLog(strict=False)
    assert dataset.read("val", log=log).num_boxes == 1
    assert [fault.kind for fault in log.faults] == ["malformed line"]
    assert any("are not used" in remark for remark in dataset.remarks)


def test_tables_without_box_columns_raise_an_error(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "photos.csv").write_text("name,taken\na.png,2020\n")
    dataset = find_dataset(tmp_path)
    assert (dataset.layout, dataset.has_annotations) == ("images", False)
    with pytest.raises(DatasetError, match=r"photos.csv .* columns of boxes"):
        dataset.load("test")
    with pytest.raises(DatasetError, match="first line must name the columns"):
        find_dataset(tmp_path / "photos.csv")


def test_one_of_several_layouts_is_selected(tmp_path):
    samples.voc(tmp_path)
    samples.write_json(tmp_path / "boxes.json", samples.coco_content())
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "COCO"
    assert any("Pascal VOC annotations (Annotations)" in remark for remark in dataset.remarks)
    assert find_dataset(tmp_path, layout="voc").layout == "Pascal VOC"
    assert find_dataset(tmp_path / "boxes.json").layout == "COCO"
    with pytest.raises(DatasetError, match="nothing that looks like YOLO"):
        find_dataset(tmp_path, layout="yolo")
    with pytest.raises(DatasetError, match="unknown layout 'voz'; did you mean 'voc'"):
        find_dataset(tmp_path, layout="voz")
    with pytest.raises(DatasetError, match="not a voc file"):
        find_dataset(tmp_path / "boxes.json", layout="voc")


def test_loading_folders_without_annotations_raises_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="there are no images"):
        find_dataset(tmp_path / "empty")
    with pytest.raises(DatasetError, match="photoz does not exist"):
        find_dataset(tmp_path / "photoz")
    samples.write_images(tmp_path / "photos")
    samples.write_json(tmp_path / "photos/a.json", {"shapes": [], "imagePath": "a.png"})
    dataset = find_dataset(tmp_path / "photos")
    assert dataset.splits == ("test",)
    with pytest.raises(DatasetError, match=r"no annotations, .* LabelMe"):
        dataset.load("test")
    with pytest.raises(DatasetError, match="has no split 'train'"):
        dataset.load("train")
