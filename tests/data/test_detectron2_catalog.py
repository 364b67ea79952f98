"""Conversion between detectron2's dicts and data sets; tests of the catalogs need detectron2."""

import functools
import sys

import numpy as np
import pytest
import torch
from pycocotools import mask

from detrex_lite.config import ConfigError, LazyConfig, get_config, instantiate
from detrex_lite.data import (
    DatasetError,
    DetrDatasetMapper,
    build_train_loader,
    dataset_of,
    generate_shapes,
    load_coco,
    load_detectron2_dataset,
    load_shapes_panoptic,
    record_masks,
    register_detectron2_dataset,
)
from detrex_lite.data.detectron2_catalog import (
    BOX_MODES,
    XYWH_ABS,
    XYWH_REL,
    XYWHA_ABS,
    XYXY_ABS,
    XYXY_REL,
    from_detectron2_records,
    to_detectron2_records,
    xyxy_of,
)
from tests.detectron2 import needs_detectron2

from .samples import assert_same_record, box_entry, image_entry, write_coco, write_image, write_same_content_twice

SIZE = 40, 60  # height and width


def annotation(bbox=(5, 6, 25, 30), bbox_mode=XYXY_ABS, category_id=0, **extra_fields):
    return {"bbox": list(bbox), "bbox_mode": bbox_mode, "category_id": category_id, **extra_fields}


def record(*annotations, file_name="a.png", **extra_fields):
    return {
        "file_name": file_name,
        "height": SIZE[0],
        "width": SIZE[1],
        "annotations": list(annotations),
        **extra_fields,
    }


def convert(*records, class_names=("cat", "dog"), **options):
    return from_detectron2_records(records, name="mine", class_names=class_names, **options)


@pytest.mark.parametrize(
    ("mode", "box"),
    [
        (XYXY_ABS, [6, 8, 30, 20]),
        (XYWH_ABS, [6, 8, 24, 12]),
        (XYXY_REL, [0.1, 0.2, 0.5, 0.5]),
        (XYWH_REL, [0.1, 0.2, 0.4, 0.3]),
        (XYWHA_ABS, [18, 14, 24, 12, 0]),
        (XYWHA_ABS, [18, 14, 12, 24, 90]),
        (XYWHA_ABS, [18, 14, 12, 24, -90]),
    ],
)
def test_every_box_mode_is_converted(mode, box):
    assert xyxy_of(box, mode, SIZE) == pytest.approx((6, 8, 30, 20))
    assert xyxy_of(np.array(box, dtype=np.float32), mode, SIZE) == pytest.approx((6, 8, 30, 20))
    assert convert(record(annotation(box, mode)))[0]["boxes"].tolist() == [pytest.approx([6, 8, 30, 20])]


def test_a_rotated_box_becomes_its_axis_aligned_bounding_box():
    half = 10 / 2**0.5
    assert xyxy_of([30, 20, 10, 10, 45], XYWHA_ABS, SIZE) == pytest.approx((30 - half, 20 - half, 30 + half, 20 + half))
    converted = convert(record(annotation([30, 20, 10, 8, 45], XYWHA_ABS)))[0]
    assert converted["area"].tolist() == [80]


def test_records_become_a_data_set():
    records = [
        record(annotation(), annotation((10, 10, 20, 20), category_id=1, iscrowd=1), image_id=9),
        record(annotation((0, 0, 99, 20), category_id=1), annotation((3, 3, 3, 9)), file_name="b.png", image_id=4),
        {key: value for key, value in record(file_name="c.png", image_id=7).items() if key != "annotations"},
    ]
    dataset = convert(*records, category_ids=[7, 2])
    assert (dataset.name, dataset.class_names, dataset.category_ids) == ("mine", ("cat", "dog"), (7, 2))
    assert dataset.image_ids.tolist() == [9, 4, 7]
    first, second, third = dataset
    assert (first["file_name"], first["height"], first["width"]) == ("a.png", 40, 60)
    assert first["classes"].tolist() == [0, 1]
    assert first["iscrowd"].tolist() == [False, True]
    assert first["area"].tolist() == [480, 100]
    assert second["boxes"].tolist() == [[0, 0, 60, 20]]
    assert third["boxes"].shape == (0, 4)
    assert (dataset.clipped, dataset.dropped) == (1, {"without area": 1})
    assert dataset.objects_per_image().tolist() == [1, 1, 0]


def test_missing_or_non_numeric_image_ids_are_replaced():
    without_ids = convert(record(annotation()), record(file_name="b.png"))
    assert without_ids.image_ids.tolist() == [1, 2]
    assert without_ids.category_ids == (0, 1)
    assert convert(record(annotation(), image_id="000009")).image_ids.tolist() == [1]
    assert convert(record(annotation(), image_id=np.int64(9))).image_ids.tolist() == [9]


def test_areas_come_from_the_area_the_mask_or_the_box():
    square = [10, 10, 20, 10, 20, 20, 10, 20]
    counts = mask.encode(np.asfortranarray(np.pad(np.ones((3, 5), np.uint8), ((10, 27), (10, 45)))))
    plain = {"size": [40, 60], "counts": [0, 7, 40 * 60 - 7]}
    areas = [
        annotation(area=12.5, segmentation=[square]),
        annotation(segmentation=[square, [0, 0, 4, 0, 0, 4]]),
        annotation(segmentation=counts),
        annotation(segmentation=plain),
        annotation(segmentation=[]),
    ]
    assert convert(record(*areas))[0]["area"].tolist() == [12.5, 108, 15, 7, 480]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "mine: .*not one image"),
        ([{"file_name": "a.png", "width": 3}], "mine: record 0 has no 'height'"),
        ([{"height": 3, "width": 3}], "mine: record 0 has no 'file_name'"),
        ([record({"bbox": [0, 0, 1, 1], "category_id": 0})], r"record 0 \(a.png\), annotation 0 has no 'bbox_mode'"),
        ([record({"bbox": [0, 0, 1, 1], "bbox_mode": 0})], "annotation 0 has no 'category_id'"),
        ([record(annotation(), annotation(category_id=2))], r"annotation 1: 'category_id' must be from 0 to 1, got 2"),
        ([record(annotation(category_id="0"))], "annotation 0: 'category_id' must be an integer, got '0'"),
        ([record(annotation(iscrowd="0"))], "annotation 0: 'iscrowd' must be an integer, got '0'"),
        ([record(annotation(area="7"))], "annotation 0: 'area' must be a number, got '7'"),
        ([{**record(), "height": 10**30}], "mine: record 0: 'height' must be from 1 to 16777216, got 10000"),
        ([record(annotation(bbox_mode=5))], r"annotation 0: bbox_mode 5 is none of BoxMode"),
        ([record(annotation(bbox_mode="XYXY"))], "bbox_mode 'XYXY' is none of BoxMode"),
        ([record(annotation(bbox_mode=XYWHA_ABS))], "XYWHA_ABS has 5 numbers, not 4"),
        ([record(annotation([1, 2, 3]))], "XYXY_ABS has 4 numbers, not 3"),
        ([record(annotation([1, 2, 3, None]))], r"record 0 \(a.png\), annotation 0: .*NoneType"),
        ([record(image_id=10**30)], "mine: 'image_id' must be from"),
        ([record(image_id=3), record(image_id=3)], "mine: image_id 3 occurs twice"),
    ],
)
def test_malformed_records_raise_an_error_with_their_position(records, message):
    with pytest.raises(DatasetError, match=message):
        convert(*records)


def test_invalid_class_names_and_ids_raise_an_error():
    with pytest.raises(DatasetError, match="mine: 3 category ids for 2 class names"):
        convert(record(annotation()), category_ids=[1, 2, 3])
    with pytest.raises(DatasetError, match="'cat' more than once"):
        convert(record(annotation()), class_names=["cat", "cat"])


def coco_dataset(folder):
    images = [image_entry(30, "x.png"), image_entry(4, "y.png")]
    boxes = [box_entry(1, 30, [2.5, 3, 4, 8], 7, iscrowd=1, area=12.5), box_entry(2, 4, [0, 0, 5, 5], 2)]
    return load_coco(*write_coco(folder, images, boxes), name="written")


def test_records_round_trip(tmp_path):
    dataset = coco_dataset(tmp_path)
    records = to_detectron2_records(dataset)
    (crowd,) = records[0]["annotations"]
    assert crowd == {"bbox": [2.5, 3, 6.5, 11], "bbox_mode": 0, "category_id": 1, "iscrowd": 1, "area": 12.5}
    converted = from_detectron2_records(records, name="x", class_names=dataset.class_names, category_ids=(2, 7))
    for left, right in zip(dataset, converted, strict=True):
        assert_same_record(left, right)


def test_masks_round_trip(tmp_path):
    square = [[5, 6, 25, 6, 25, 30, 5, 30]]
    crowd = mask.encode(np.asfortranarray(np.eye(40, 60, dtype=np.uint8)))
    entries = [
        box_entry(3, 1, [5, 6, 20, 24], segmentation=square),
        box_entry(4, 1, [0, 0, 40, 40], iscrowd=1, segmentation={**crowd, "counts": crowd["counts"].decode()}),
    ]
    dataset = load_coco(*write_coco(tmp_path, annotations=entries), masks=True)
    records = to_detectron2_records(dataset)
    assert records[0]["annotations"][0]["segmentation"] == square
    converted = from_detectron2_records(
        records, name="mine", class_names=dataset.class_names, category_ids=dataset.category_ids, masks=True
    )
    assert torch.equal(record_masks(converted[0]), record_masks(dataset[0]))
    assert from_detectron2_records(records, name="mine", class_names=("cat", "dog")).segmentations is None
    del records[0]["annotations"][1]["segmentation"]
    with pytest.raises(DatasetError, match=r"record 0 \(.*1.png\), annotation 1 has no 'segmentation'"):
        from_detectron2_records(records, name="mine", class_names=("cat", "dog"), masks=True)
    records[0]["annotations"][1]["segmentation"] = []
    with pytest.raises(DatasetError, match="annotation 1: .* empty list"):
        from_detectron2_records(records, name="mine", class_names=("cat", "dog"), masks=True)


def test_panoptic_segments_round_trip(tmp_path):
    root = generate_shapes(tmp_path / "shapes", num_train=3, num_val=1, image_size=32)
    dataset = load_shapes_panoptic(root, "train")
    records = to_detectron2_records(dataset)
    assert "annotations" not in records[0]
    converted = from_detectron2_records(records, name="mine", class_names=dataset.class_names, masks=True)
    assert converted.is_thing.tolist() == [True, True, True, False]
    for original_record, converted_record in zip(dataset, converted, strict=True):
        assert torch.equal(record_masks(original_record), record_masks(converted_record))
        torch.testing.assert_close(original_record["boxes"], converted_record["boxes"])
        torch.testing.assert_close(original_record["classes"], converted_record["classes"])
    published = {"id": 1, "category_id": 3, "bbox": [4, 5, 10, 12], "iscrowd": 0, "area": 9, "isthing": False}
    records[0]["segments_info"] = [published]  # without bbox_mode
    original_record = from_detectron2_records(records, name="mine", class_names=dataset.class_names, masks=True)[0]
    assert original_record["boxes"].tolist() == [[4, 5, 14, 17]]
    records[0]["segments_info"] = [{**published, "id": 2**24}]
    with pytest.raises(DatasetError, match="segment 0: 'id' must be from 1"):
        from_detectron2_records(records, name="mine", class_names=dataset.class_names, masks=True)


def test_images_for_prediction_have_no_annotations(tmp_path):
    dataset = load_coco(*write_coco(tmp_path, [image_entry(3)]))
    (record_without_annotations,) = to_detectron2_records(dataset)
    assert set(record_without_annotations) == {"file_name", "image_id", "height", "width"}
    assert not from_detectron2_records([record_without_annotations], name="x", class_names=["cat"]).has_annotations
    negative = from_detectron2_records(
        [{**record_without_annotations, "annotations": []}], name="x", class_names=["cat"]
    )
    assert negative.has_annotations
    assert to_detectron2_records(negative)[0]["annotations"] == []


def test_a_missing_detectron2_raises_an_error_with_the_install_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.delitem(sys.modules, "detectron2.data", raising=False)
    with pytest.raises(ImportError, match="pip install --no-build-isolation -e detectron2"):
        load_detectron2_dataset("coco_2017_train")
    with pytest.raises(ImportError, match="pip install --no-build-isolation -e detectron2"):
        register_detectron2_dataset(coco_dataset(tmp_path))
    cfg = {"_target_": "detrex_lite.data.load_detectron2_dataset", "name": "coco_2017_train"}
    with pytest.raises(ConfigError, match="load_detectron2_dataset failed: ImportError: .*docs/detectron2.md"):
        instantiate(cfg)


@pytest.fixture
def catalogs():
    """detectron2's catalogs; data sets that a test registers are removed afterwards."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    registered_before = set(DatasetCatalog)
    yield DatasetCatalog, MetadataCatalog
    for name in set(DatasetCatalog) - registered_before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@needs_detectron2
def test_box_modes_agree_with_detectron2():
    from detectron2.structures import BoxMode

    assert {mode.name: mode.value for mode in BoxMode} == {name: number for number, name in enumerate(BOX_MODES)}
    generator = torch.Generator().manual_seed(0)
    for mode in (XYXY_ABS, XYWH_ABS, XYWHA_ABS):
        for box in (torch.rand(8, 5, generator=generator) * 30).tolist():
            box = box if mode == XYWHA_ABS else box[:4]
            expected = BoxMode.convert(box, BoxMode(mode), BoxMode.XYXY_ABS)
            assert xyxy_of(box, BoxMode(mode), SIZE) == pytest.approx(expected, abs=1e-4)


@needs_detectron2
def test_a_data_set_of_the_catalog_is_used_in_training(catalogs, tmp_path):
    from detectron2.data.datasets import register_coco_instances

    write_same_content_twice(tmp_path)

    register_coco_instances("mine", {}, str(tmp_path / "instances.json"), str(tmp_path / "images"))
    cfg = get_config("common/data/coco_detr.py")
    cfg.train = {"output_dir": str(tmp_path), "seed": 0}
    for part in ("train", "test"):
        cfg.dataloader[part].dataset = {"_target_": "detrex_lite.data.load_detectron2_dataset", "name": "mine"}
    LazyConfig.apply_overrides(cfg, ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"])
    loader = instantiate(cfg.dataloader.train)
    expected = load_coco(tmp_path / "instances.json", tmp_path / "images")
    dataset = dataset_of(loader)
    assert (dataset.class_names, dataset.category_ids) == (expected.class_names, expected.category_ids)
    for left, right in zip(expected, dataset, strict=True):
        del left["annotation_ids"], right["annotation_ids"]  # detectron2 drops annotation ids
        assert_same_record(left, right)
    assert "instances" in next(iter(loader))[0]
    assert instantiate(cfg.dataloader.evaluator).dataset is dataset  # the data set is cached


@needs_detectron2
def test_an_unregistered_data_set_raises_an_error_with_the_closest_name(catalogs):
    datasets, _ = catalogs
    datasets.register("my_cells", list)
    with pytest.raises(DatasetError, match="DatasetCatalog has no 'my_cell'; did you mean 'my_cells'?"):
        load_detectron2_dataset("my_cell")


@needs_detectron2
def test_missing_class_names_raise_an_error(catalogs):
    datasets, metadata = catalogs
    datasets.register("nameless", functools.partial(list, [record(annotation())]))
    with pytest.raises(DatasetError, match="'nameless'\\).thing_classes"):
        load_detectron2_dataset("nameless")
    metadata.get("nameless").thing_classes = ["cat"]
    assert load_detectron2_dataset("nameless").category_ids == (0,)


@needs_detectron2
def test_data_sets_of_this_package_are_registered_in_the_catalog(catalogs, tmp_path):
    _, metadata = catalogs
    dataset = coco_dataset(tmp_path)
    assert register_detectron2_dataset(dataset) == "written"
    assert register_detectron2_dataset(dataset) == "written"
    assert register_detectron2_dataset(dataset, "again") == "again"
    assert metadata.get("written").thing_classes == ["cat", "dog"]
    assert metadata.get("written").thing_dataset_id_to_contiguous_id == {2: 0, 7: 1}
    for left, right in zip(dataset, load_detectron2_dataset("again"), strict=True):
        assert_same_record(left, right)
    other_dataset = from_detectron2_records([record(annotation())], name="written", class_names=["cat"])
    with pytest.raises(DatasetError, match="another 'written' already"):
        register_detectron2_dataset(other_dataset)
    with pytest.raises(DatasetError, match="another 'coco_2017_train' already"):
        register_detectron2_dataset(dataset, "coco_2017_train")


@needs_detectron2
def test_mapper_of_detectron2_agrees_with_the_mapper_of_this_package(catalogs, tmp_path):
    from detectron2.data import DatasetMapper

    dataset = coco_dataset(tmp_path)
    for name in ("x.png", "y.png"):
        write_image(tmp_path / "images" / name)
    register_detectron2_dataset(dataset)
    detectron2_mapper = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    mapper = DetrDatasetMapper(augmentation=None, is_train=True)
    for original_record, detectron2_record in zip(dataset, catalogs[0].get("written"), strict=True):
        actual, expected = mapper(original_record), detectron2_mapper(detectron2_record)
        torch.testing.assert_close(actual["image"], expected["image"], rtol=0, atol=0)
        torch.testing.assert_close(actual["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
        torch.testing.assert_close(actual["instances"].gt_classes, expected["instances"].gt_classes)
    assert len(actual["instances"]) == 1


@needs_detectron2
def test_training_on_records_without_boxes_raises_an_error(catalogs):
    datasets, metadata = catalogs
    datasets.register("empty", functools.partial(list, [record()]))
    metadata.get("empty").thing_classes = ["cat"]
    mapper = DetrDatasetMapper(is_train=True)
    with pytest.raises(DatasetError, match="no image has a box: data set 'empty'"):
        build_train_loader(dataset=load_detectron2_dataset("empty"), mapper=mapper, total_batch_size=1)
