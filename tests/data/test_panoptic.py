"""Reading and checking of COCO panoptic files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detrex_lite.data import (
    DatasetError,
    DetrDatasetMapper,
    build_train_loader,
    load_coco_panoptic,
    load_dataset,
    subset,
)
from detrex_lite.data.check import check_dataset, named_reader
from detrex_lite.data.panoptic import read_coco_panoptic
from detrex_lite.structures import as_masks, masks_to_boxes

from .samples import image_entry, write_image

CATEGORIES = [
    {"id": 92, "name": "banner", "isthing": 0},
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 3, "name": "car", "isthing": 1},
]


def segment_ids() -> np.ndarray:
    """Three segments, whose ids need one, two and three bytes, and a void corner."""
    ids = np.full((40, 60), 7)
    ids[10:30, 5:25] = 300
    ids[20:40, 30:60] = 70_001
    ids[:5, :5] = 0
    return ids


def segment(segment_id, category_id, **extra_fields):
    y, x = np.nonzero(segment_ids() == segment_id) if (segment_ids() == segment_id).any() else ([0, 1], [0, 1])
    box = [int(min(x)), int(min(y)), int(max(x) - min(x) + 1), int(max(y) - min(y) + 1)]
    return {"id": segment_id, "category_id": category_id, "bbox": box, "iscrowd": 0, **extra_fields}


SEGMENTS = [segment(300, 3, area=400), segment(7, 92), segment(70_001, 1, iscrowd=1)]


def write_panoptic(folder, *, annotations=None, categories=CATEGORIES, pixels=None, mode="RGB"):
    """Write an image, its PNG of segments and the JSON file; returns the arguments of the reader."""
    write_image(folder / "images/1.png")
    (folder / "panoptic").mkdir(exist_ok=True)
    ids = segment_ids() if pixels is None else pixels
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colours).convert(mode).save(folder / "panoptic/a.png")
    if annotations is None:
        annotations = [{"image_id": 1, "file_name": "a.png", "segments_info": SEGMENTS}]
    content = {"images": [image_entry(1, "1.png")], "categories": categories, "annotations": annotations}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return str(folder / "panoptic.json"), str(folder / "images"), str(folder / "panoptic")


def test_every_segment_is_an_object_with_a_mask(tmp_path):
    dataset = load_coco_panoptic(*write_panoptic(tmp_path)[:2])  # the folder of PNG files is next to the JSON file
    assert dataset.class_names == ("person", "car", "banner")  # sorted by id
    assert dataset.category_ids == (1, 3, 92)
    assert dataset.is_thing.tolist() == [True, True, False]
    record = dataset[0]
    assert record["classes"].tolist() == [1, 2, 0]
    assert record["iscrowd"].tolist() == [False, False, True]
    assert record["annotation_ids"].tolist() == [300, 7, 70_001]
    assert record["area"].tolist() == [400, 2400, 600]  # missing areas are those of the boxes
    masks = as_masks(record["segmentations"], (40, 60))
    for mask, segment_id in zip(masks, (300, 7, 70_001), strict=True):
        assert torch.equal(mask, torch.from_numpy(segment_ids() == segment_id))
    torch.testing.assert_close(masks_to_boxes(masks), record["boxes"])
    assert torch.equal(record["segmentations"].label_map(), torch.from_numpy(segment_ids()).int())
    assert subset(dataset, 1)[0]["segmentations"].ids.tolist() == [300, 7, 70_001]
    # The cached data set is not used, because the file was rewritten.
    assert load_coco_panoptic(*write_panoptic(tmp_path)[:2]) is not dataset
    assert not subset(dataset, 1).is_thing[2]


def test_training_uses_things_and_stuff_without_crowds(tmp_path):
    dataset = load_coco_panoptic(*write_panoptic(tmp_path))
    loader = build_train_loader(
        dataset=dataset, mapper=DetrDatasetMapper(is_train=True), total_batch_size=1, num_workers=0
    )
    instances = next(iter(loader))[0]["instances"]
    assert instances.gt_classes.tolist() == [1, 2]
    assert instances.gt_masks.dtype == torch.bool
    for mask, segment_id in zip(instances.gt_masks, (300, 7), strict=True):
        assert torch.equal(mask, torch.from_numpy(segment_ids() == segment_id))


def test_panoptic_data_sets_are_loaded_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DETREX_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match=r"panoptic_val2017.json does not exist"):
        load_dataset("coco_2017_val_panoptic")
    write_panoptic(tmp_path / "coco") if (tmp_path / "coco").mkdir() is None else None
    (tmp_path / "coco/annotations").mkdir()
    (tmp_path / "coco/panoptic.json").rename(tmp_path / "coco/annotations/panoptic_val2017.json")
    (tmp_path / "coco/images").rename(tmp_path / "coco/val2017")
    (tmp_path / "coco/panoptic").rename(tmp_path / "coco/annotations/panoptic_val2017")
    dataset = load_dataset("coco_2017_val_panoptic", masks=True)
    assert len(as_masks(dataset[0]["segmentations"], (40, 60))) == 3
    assert dataset.name == "coco_2017_val_panoptic"
    assert check_dataset(named_reader("coco_2017_val_panoptic"), decode=True).faults == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"image_id": 2, "file_name": "a.png", "segments_info": []}]}, "image_id 2 is not among"),
        ({"annotations": [{"image_id": 1, "segments_info": []}]}, "annotation at position 0: it has no 'file_name'"),
        ({"annotations": [{"image_id": 1, "file_name": "a.png"}]}, "has no 'segments_info'"),
        ({"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": 3}]}, "must be a list, got 3"),
        ({"annotations": []}, "image 1: the image has no entry in 'annotations'"),
        ({"categories": [{"id": 1, "name": "a"}]}, "category 1: it has no 'isthing'"),
        ({"categories": [{"id": 1, "name": "a", "isthing": 2}]}, "category 1: 'isthing' must be from 0 to 1"),
        (
            {"segments": [segment(7, 5)]},
            r"a.png: segment 7: its category_id 5 is not among .* \(1, 3, 92\)",
        ),
        ({"segments": [segment(0, 1)]}, r"a.png: segment 0: 'id' must be from 1 to 16777215"),
        ({"segments": [segment(7, 1), segment(7, 3)]}, "segment 7: another segment of the image has the same id"),
        ({"segments": [{"id": 7, "category_id": 1}]}, "segment 7: it has no 'bbox'"),
        ({"segments": [5]}, "segment at position 0: it is not an object but 5"),
    ],
)
def test_malformed_entries_raise_an_error_with_their_position(tmp_path, changes, message):
    if "segments" in changes:
        changes = {"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": changes["segments"]}]}
    with pytest.raises(DatasetError, match=f"panoptic.json.*{message}"):
        load_coco_panoptic(*write_panoptic(tmp_path, **changes))


def test_duplicate_segmentations_and_missing_folders_raise_an_error(tmp_path):
    duplicates = [{"image_id": 1, "file_name": name, "segments_info": []} for name in ("a.png", "b.png")]
    files = write_panoptic(tmp_path, annotations=duplicates)
    with pytest.raises(DatasetError, match=r"image 1 has another segmentation, a.png"):
        load_coco_panoptic(*files)
    with pytest.raises(DatasetError, match="panoptic folder .*elsewhere does not exist"):
        load_coco_panoptic(files[0], files[1], tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"class_names says \['x'\]"):
        load_coco_panoptic(*files, class_names=["x"])


def test_malformed_png_files_raise_an_error_when_masks_are_read(tmp_path):
    files = write_panoptic(tmp_path)
    png = tmp_path / "panoptic/a.png"
    dataset = load_coco_panoptic(*files)

    def assert_fault(expected, **changes):
        write_panoptic(tmp_path, **changes)
        with pytest.raises(DatasetError, match=f"a.png.*{expected}"):
            DetrDatasetMapper(is_train=True)(dataset[0])

    assert_fault("pixels in mode 'L'", mode="L")
    assert_fault("40 high and 50 wide, .* 40 high and 60 wide", pixels=segment_ids()[:, :50])
    assert_fault("no pixel belongs to segment 300", pixels=np.where(segment_ids() == 300, 7, segment_ids()))
    png.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"a.png cannot be read"):
        DetrDatasetMapper(is_train=True)(dataset[0])
    png.unlink()
    with pytest.raises(DatasetError, match=r"a.png does not exist"):
        DetrDatasetMapper(is_train=True)(dataset[0])
    assert "instances" not in DetrDatasetMapper(is_train=False)(dataset[0])  # evaluation does not read masks


def test_check_lists_faults_of_png_files(tmp_path):
    files = write_panoptic(tmp_path)

    def kinds(**options):
        def read(log):
            return read_coco_panoptic(*files, log=log)

        return [fault.kind for fault in check_dataset(read, **options).faults]

    assert kinds(decode=True) == []
    write_panoptic(tmp_path, pixels=np.where(segment_ids() == 300, 7, segment_ids()))
    assert kinds(decode=False) == []
    assert kinds(decode=True) == ["empty mask"]
    write_panoptic(tmp_path, pixels=np.where(segment_ids() == 0, 9, segment_ids()))
    assert kinds(decode=True) == ["unknown segment"]
    write_panoptic(tmp_path, pixels=np.roll(segment_ids(), 30, axis=1))
    assert kinds(decode=True) == ["mask and box", "mask and box"]
    write_panoptic(tmp_path, mode="L")
    assert kinds(decode=True) == ["panoptic file unreadable"]
    (tmp_path / "panoptic/a.png").unlink()
    assert kinds() == ["panoptic file missing"]
