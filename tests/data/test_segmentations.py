"""Masks from annotation files through mappers and loaders to the model."""

import json

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from detrex_lite.data import (
    DatasetError,
    DetrDatasetMapper,
    Mixup,
    MultiScale,
    build_train_loader,
    from_records,
    generate_shapes,
    load_coco,
    load_dataset,
    load_shapes,
    load_shapes_panoptic,
    record_masks,
    register_dataset,
    subset,
)
from detrex_lite.data.check import check_dataset, named_reader
from detrex_lite.data.coco import read_coco
from detrex_lite.data.shapes import draw_shapes
from detrex_lite.structures import masks_to_boxes, run_lengths

from .samples import box_entry, image_entry, write_coco, write_image

RECTANGLE = [[5, 6, 25, 6, 25, 30, 5, 30]]
TWO_PARTS = [[30, 0, 40, 0, 40, 10, 30, 10], [50, 20, 60, 20, 60, 40, 50, 40]]


def rectangle(x0, y0, x1, y1):
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


CROWD = rectangle(10, 10, 50, 20) | rectangle(0, 30, 5, 40)
OBJECTS = [
    box_entry(11, 1, [5, 6, 20, 24], segmentation=RECTANGLE),
    box_entry(12, 1, [0, 10, 50, 30], iscrowd=1, segmentation={"size": [40, 60], "counts": [0]}),
    box_entry(13, 2, [30, 0, 30, 40], category_id=7, segmentation=TWO_PARTS),
    box_entry(14, 1, [10, 10, 0, 5], segmentation=RECTANGLE),  # dropped, because the box has no area
    box_entry(15, 1, [0, 0, 60, 40], segmentation=run_lengths(CROWD[None])[0]),
]


def uncompressed_run_lengths(mask):
    counts, value = [0], False
    for pixel in mask.T.flatten().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": [40, 60], "counts": counts}


def write_objects(folder, annotations=None):
    annotations = json.loads(json.dumps(OBJECTS if annotations is None else annotations))
    for entry in annotations:
        if entry["id"] == 12:
            entry["segmentation"] = uncompressed_run_lengths(CROWD)
    for number in (1, 2):
        write_image(folder / f"images/{number}.png")
    return write_coco(folder, [image_entry(1), image_entry(2)], annotations)


def test_each_box_has_its_mask(tmp_path):
    dataset = load_coco(*write_objects(tmp_path), masks=True)
    first, second = dataset
    assert first["annotation_ids"].tolist() == [11, 12, 15]
    masks = record_masks(first)
    assert torch.equal(masks, torch.stack([rectangle(5, 6, 25, 30), CROWD, CROWD]))
    assert torch.equal(record_masks(first, ~first["iscrowd"]), masks[[0, 2]])
    assert torch.equal(record_masks(second)[0], rectangle(30, 0, 40, 10) | rectangle(50, 20, 60, 40))
    assert torch.equal(record_masks(subset(dataset, 1)[0]), masks)
    without_masks = load_coco(*write_objects(tmp_path / "b"))
    assert without_masks.segmentations is None
    assert "segmentations" not in without_masks[0]


def test_segmentations_are_not_read_without_masks(tmp_path):
    path, root = write_objects(tmp_path, [box_entry(1, 1, [0, 0, 9, 9], segmentation="nonsense")])
    assert load_coco(path, root).num_boxes == 1
    with pytest.raises(DatasetError, match=r"instances.json: annotation 1: .*segmentation must be a list"):
        load_coco(path, root, masks=True)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "empty list"),
        ([[1, 2, 3, 4]], "4 numbers"),
        ({"size": [60, 40], "counts": [2400]}, r"size \[60, 40\], .* 40 high and 60 wide"),
        ({"size": [40, 60], "counts": [2399]}, "add up to 2399"),
    ],
)
def test_malformed_segmentations_are_faults(tmp_path, segmentation, message):
    entries = [box_entry(4, 1, [0, 0, 9, 9], segmentation=segmentation), box_entry(5, 1, [0, 0, 9, 9]), OBJECTS[0]]
    path, root = write_objects(tmp_path, entries)
    with pytest.raises(DatasetError, match=f"instances.json: annotation 4: .*{message}"):
        load_coco(path, root, masks=True)
    report = check_dataset(lambda log: read_coco(str(path), str(root), masks=True, log=log))
    assert [fault.kind for fault in report.faults] == ["malformed entry", "missing key"]
    assert "annotation 5: it has no 'segmentation'" in report.faults[1].where + ": " + report.faults[1].message
    assert "masks: yes" in str(report)


def test_decoding_check_compares_masks_with_boxes(tmp_path):
    entries = [
        OBJECTS[0],
        box_entry(2, 1, [40, 30, 10, 10], segmentation=RECTANGLE),
        box_entry(3, 1, [40, 30, 1, 1], segmentation=[[40.1, 30.1, 40.2, 30.1, 40.2, 30.2]]),
    ]
    path, root = write_objects(tmp_path, entries)
    report = check_dataset(lambda log: read_coco(str(path), str(root), masks=True, log=log), decode=True)
    assert [(fault.kind, fault.where[-12:]) for fault in report.faults] == [
        ("mask and box", "annotation 2"),
        ("empty mask", "annotation 3"),
    ]


def test_mapper_returns_masks_and_drops_objects_with_empty_masks(tmp_path):
    entries = [OBJECTS[0], box_entry(3, 1, [40, 30, 9, 9], segmentation=[[40.1, 30.1, 40.2, 30.1, 40.2, 30.2]])]
    record = load_coco(*write_objects(tmp_path, entries), masks=True)[0]
    instances = DetrDatasetMapper(is_train=True)(record)["instances"]
    assert instances.gt_masks.dtype == torch.bool
    assert type(instances.gt_masks) is torch.Tensor
    assert torch.equal(instances.gt_masks, rectangle(5, 6, 25, 30)[None])
    flipped = DetrDatasetMapper(augmentation=v2.RandomHorizontalFlip(p=1), is_train=True)(record)["instances"]
    assert torch.equal(flipped.gt_masks, rectangle(35, 6, 55, 30)[None])
    record_without_masks = load_coco(*write_objects(tmp_path / "b"))[0]
    assert not DetrDatasetMapper(is_train=True)(record_without_masks)["instances"].has("gt_masks")


class CropRight:
    def __init__(self, *names):
        self.names = names

    def __call__(self, image, target):
        def cut(value):
            return v2.functional.crop(value, 0, 42, 40, 18)

        return cut(image), {name: cut(value) if name in self.names else value for name, value in target.items()}


def test_boxes_are_clipped_or_computed_from_the_cropped_masks(tmp_path):
    record = load_coco(*write_objects(tmp_path), masks=True)[1]
    crop = CropRight("boxes", "masks")
    instances = DetrDatasetMapper(augmentation=crop, is_train=True)(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 18, 40]]
    instances = DetrDatasetMapper(augmentation=crop, is_train=True, boxes_from_masks=True)(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[8, 20, 18, 40]]
    assert torch.equal(masks_to_boxes(instances.gt_masks), instances.gt_boxes.tensor)


def test_inconsistent_masks_raise_an_error(tmp_path):
    path, root = write_objects(tmp_path)
    with pytest.raises(ValueError, match="no masks to take boxes from"):
        DetrDatasetMapper(is_train=True, boxes_from_masks=True)(load_coco(path, root)[0])
    record = load_coco(path, root, masks=True)[0]
    with pytest.raises(ValueError, match=r"masks \(2, 40, 60\) .* 2 boxes .* 40x18"):
        DetrDatasetMapper(augmentation=CropRight("boxes"), is_train=True)(record)

    def without_masks(image, target):
        return image, {name: value for name, value in target.items() if name != "masks"}

    with pytest.raises(ValueError, match="without 'masks'"):
        DetrDatasetMapper(augmentation=without_masks, is_train=True)(record)


def test_records_may_have_segmentations(tmp_path):
    path = str(write_image(tmp_path / "a.png"))
    record = {"file_name": path, "height": 40, "width": 60, "boxes": [[5, 6, 25, 30]], "classes": [0]}
    dataset = from_records([{**record, "segmentations": [RECTANGLE]}], name="mine", class_names=["a"])
    assert torch.equal(record_masks(dataset[0]), rectangle(5, 6, 25, 30)[None])
    with pytest.raises(DatasetError, match="record 1 has 1 boxes, but 0 segmentations"):
        from_records([{**record, "segmentations": [RECTANGLE]}, record], name="mine", class_names=["a"])
    with pytest.raises(DatasetError, match="record 0, box 0: .* empty list"):
        from_records([{**record, "segmentations": [[]]}], name="mine", class_names=["a"])


def test_data_sets_are_loaded_by_name_with_and_without_masks(tmp_path, monkeypatch):
    path, _ = write_objects(tmp_path / "coco")
    (tmp_path / "coco/annotations").mkdir()
    path.rename(tmp_path / "coco/annotations/instances_val2017.json")
    (tmp_path / "coco/images").rename(tmp_path / "coco/val2017")
    monkeypatch.setenv("DETREX_DATASETS", str(tmp_path))
    assert load_dataset("coco_2017_val").segmentations is None
    assert load_dataset("coco_2017_val", masks=True).segmentations is not None
    assert check_dataset(named_reader("coco_2017_val", masks=True)).dataset.segmentations is not None
    register_dataset("test_masks_boxes", lambda: load_dataset("coco_2017_val"))
    with pytest.raises(DatasetError, match="'test_masks_boxes' has no masks"):
        load_dataset("test_masks_boxes", masks=True)
    (tmp_path / "VOC2007/Annotations").mkdir(parents=True)
    with pytest.raises(DatasetError, match="'voc_2007_val' has boxes only"):
        named_reader("voc_2007_val", masks=True)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("generated") / "shapes", num_train=20, num_val=4, image_size=48)


def test_shapes_have_exact_masks(shapes):
    train = load_shapes(shapes, "train", masks=True)
    panoptic = load_shapes_panoptic(shapes, "train")
    assert panoptic.class_names == ("circle", "square", "triangle", "background")
    assert panoptic.is_thing.tolist() == [True, True, True, False]
    for index, (record, segments) in enumerate(zip(train, panoptic, strict=True)):
        rng = np.random.default_rng((0, 0, index))
        objects = 0 if rng.random() < 0.05 else int(rng.integers(1, 5))
        drawn = [torch.from_numpy(mask) for _, mask in draw_shapes(rng, 48, objects)[1]]
        masks = record_masks(record)
        assert torch.equal(masks, torch.stack([*drawn, torch.zeros(48, 48).bool()])[: len(drawn)])
        torch.testing.assert_close(record["boxes"], masks_to_boxes(masks))
        assert torch.equal(record_masks(segments), torch.cat([masks, ~masks.any(0)[None]]))
        assert segments["classes"].tolist() == [*record["classes"].tolist(), 3]
    report = check_dataset(
        lambda log: read_coco(str(shapes / "annotations/val.json"), str(shapes / "images/val"), masks=True, log=log),
        decode=True,
    )
    assert report.faults == []


def test_shapes_of_an_earlier_version_are_generated_again(shapes, tmp_path):
    root = generate_shapes(tmp_path / "shapes", num_train=3, num_val=2, image_size=32, seed=4)
    parameters = json.loads((root / "generation.json").read_text())
    (root / "generation.json").write_text(json.dumps({**parameters, "drawing": 2}))
    (root / "annotations/panoptic_val.json").unlink()
    assert len(load_shapes_panoptic(root, "val")) == 2
    assert json.loads((root / "generation.json").read_text()) == parameters


def loader(dataset, *, workers=0, **options):
    augmentation = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomResizedCrop((40, 40), antialias=True)])
    return build_train_loader(
        dataset=dataset,
        mapper=DetrDatasetMapper(augmentation=augmentation, is_train=True),
        total_batch_size=4,
        num_workers=workers,
        seed=5,
        mixup=Mixup(probability=1.0),
        multi_scale=MultiScale(sizes=[32, 64]),
        **options,
    )


def test_a_loader_with_a_later_start_gives_the_same_masks(shapes):
    """The loader uses mixup, batches of several sizes, and worker processes."""
    dataset = load_shapes(shapes, "train", masks=True)
    uninterrupted_loader = loader(dataset)
    batches = [batch for batch, _ in zip(uninterrupted_loader, range(6), strict=False)]
    resumed_loader = loader(dataset, workers=1)
    resumed_loader.batch_sampler.start_batch = 4
    resumed = [batch for batch, _ in zip(resumed_loader, range(2), strict=False)]
    sizes = set()
    for expected, actual in zip(batches[4:], resumed, strict=True):
        for expected_sample, actual_sample in zip(expected, actual, strict=True):
            masks = expected_sample["instances"].gt_masks
            assert torch.equal(masks, actual_sample["instances"].gt_masks)
            assert masks.shape == (len(expected_sample["instances"]), *expected_sample["image"].shape[-2:])
            assert masks.flatten(1).any(1).all()
            sizes.add(masks.shape[-1])
    assert sizes <= {32, 64}
    # Mixup merges the objects of two images.
    assert max(len(sample["instances"]) for batch in batches for sample in batch) > 4


def test_masks_of_a_batch_are_resized_with_the_images(shapes):
    dataset = load_shapes(shapes, "train", masks=True)
    samples = [DetrDatasetMapper(is_train=True)(dataset[index]) for index in range(6)]
    for before, after in zip(samples, MultiScale(sizes=[96])(samples, epoch=0), strict=True):
        expected = before["instances"].gt_masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(after["instances"].gt_masks, expected)
        torch.testing.assert_close(masks_to_boxes(expected), after["instances"].gt_boxes.tensor)
