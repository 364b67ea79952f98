import json

import numpy as np
import pytest
import torch

from detrex_lite.data import DatasetError, generate_shapes, load_shapes, read_image, shapes
from detrex_lite.data.shapes import SHAPES, draw_shapes

SMALL = {"num_train": 30, "num_val": 6, "image_size": 48}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("generated") / "shapes", **SMALL, empty_share=0.2)


def test_splits_load_as_data_sets(root):
    train, val = load_shapes(root, "train"), load_shapes(root, "val")
    assert (len(train), len(val)) == (30, 6)
    assert train.class_names == val.class_names == SHAPES
    assert (train.dropped, train.clipped) == ({}, 0)
    objects = train.objects_per_image()
    assert objects.min() == 0
    assert 1 < objects.max() <= 4
    assert set(train.classes.tolist()) == {0, 1, 2}
    assert read_image(train[0]["file_name"]).shape == (3, 48, 48)


def test_visible_parts_of_shapes_do_not_overlap():
    overlaps = 0
    for seed in range(30):
        pixels, drawn = draw_shapes(np.random.default_rng(seed), 64, 4)
        assert pixels.shape == (64, 64, 3)
        assert pixels.dtype == np.uint8
        visible = np.stack([mask for _, mask in drawn])
        assert visible.sum(0).max() == 1  # each pixel shows one shape
        corners = [(mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]) for _, mask in drawn]
        boxes = [(x.min(), y.min(), x.max(), y.max()) for x, y in corners]
        overlaps += any(
            a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for i, a in enumerate(boxes) for b in boxes[:i]
        )
    assert overlaps > 5


def test_annotated_boxes_enclose_the_masks_tightly(root):
    train = load_shapes(root, "train")
    index = int(np.argmax(train.objects_per_image()))
    rng = np.random.default_rng((0, 0, index))
    rng.random()  # the draw that decides whether the image is empty
    pixels, drawn = draw_shapes(rng, 48, int(rng.integers(1, 5)))
    np.testing.assert_array_equal(read_image(train[index]["file_name"]).permute(1, 2, 0).numpy(), pixels)
    expected = []
    for _, mask in drawn:
        y, x = mask.nonzero()
        expected.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    torch.testing.assert_close(train[index]["boxes"], torch.tensor(np.array(expected), dtype=torch.float32))
    assert train[index]["area"].tolist() == [mask.sum() for _, mask in drawn]


def test_classes_differ_in_shape():
    """Only a circle fills the same fraction of its box, pi/4, at every angle."""
    filled: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for seed in range(200):
        _, drawn = draw_shapes(np.random.default_rng(seed), 64, 1)
        for class_index, mask in drawn:
            y, x = mask.nonzero()
            if min(x.min(), y.min()) > 0 and max(x.max(), y.max()) < 63:
                filled[class_index].append(mask.sum() / (np.ptp(x) + 1) / (np.ptp(y) + 1))
    assert np.std(filled[0]) < 0.02
    assert abs(np.mean(filled[0]) - np.pi / 4) < 0.03
    assert min(filled[1]) > 0.45
    assert max(filled[1]) > 0.9
    assert max(filled[2]) < 0.6


def test_shapes_are_generated_again_only_when_arguments_change(tmp_path):
    generate_shapes(tmp_path / "shapes", **SMALL)
    image = tmp_path / "shapes/images/train/000001.png"
    content, modification_time = image.read_bytes(), image.stat().st_mtime_ns
    generate_shapes(tmp_path / "shapes", **SMALL)
    assert image.stat().st_mtime_ns == modification_time
    generate_shapes(tmp_path / "again", **SMALL)
    assert (tmp_path / "again/images/train/000001.png").read_bytes() == content
    assert len(load_shapes(tmp_path / "shapes", "val")) == 6
    generate_shapes(tmp_path / "shapes", **{**SMALL, "num_val": 3, "seed": 1})
    assert image.read_bytes() != content
    assert len(load_shapes(tmp_path / "shapes", "val")) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "shapes"]


def test_a_folder_generated_by_another_process_is_used(tmp_path, monkeypatch):
    write_split = shapes._write_split

    def write_after_another_process(folder, *arguments):
        monkeypatch.setattr(shapes, "_write_split", write_split)
        generate_shapes(tmp_path / "shapes", **SMALL)
        write_split(folder, *arguments)

    monkeypatch.setattr(shapes, "_write_split", write_after_another_process)
    assert generate_shapes(tmp_path / "shapes", **SMALL) == tmp_path / "shapes"
    assert len(load_shapes(tmp_path / "shapes", "train")) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_a_failed_generation_leaves_no_files(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(shapes, "_write_split", fail)
    with pytest.raises(OSError, match="No space left"):
        generate_shapes(tmp_path / "shapes", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_images_do_not_depend_on_the_number_of_images(root, tmp_path):
    generate_shapes(tmp_path / "fewer", **{**SMALL, "num_train": 4}, empty_share=0.2)
    for name in ("000001.png", "000004.png"):
        assert (tmp_path / "fewer/images/train" / name).read_bytes() == (root / "images/train" / name).read_bytes()


def test_loading_generates_missing_shapes(tmp_path, monkeypatch):
    generated = []
    monkeypatch.setattr(
        "detrex_lite.data.shapes.generate_shapes",
        lambda root: generated.append(root) or generate_shapes(root, **SMALL),
    )
    assert len(load_shapes(tmp_path / "shapes", "train")) == 30
    assert len(load_shapes(tmp_path / "shapes", "val")) == 6
    assert generated == [tmp_path / "shapes"]


def test_folders_with_other_files_raise_an_error(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"other files \(precious.txt"):
        generate_shapes(tmp_path, **SMALL)
    generate_shapes(tmp_path / "shapes", **SMALL)
    (tmp_path / "shapes/model.pth").write_text("x")
    with pytest.raises(DatasetError, match=r"model.pth"):
        generate_shapes(tmp_path / "shapes", **{**SMALL, "seed": 1})
    assert (tmp_path / "shapes/model.pth").exists()
    assert json.loads((tmp_path / "shapes/generation.json").read_text())["seed"] == 0


@pytest.mark.parametrize("content", ['{"tool": "x"}', "[1]", "7", "[" * 100_000, None])
def test_a_folder_of_another_tool_raises_an_error(tmp_path, content):
    for name in ("images/a.jpg", "annotations/a.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("precious")
    if content is None:  # a generation.json in which a number is a string
        generate_shapes(tmp_path / "made", **SMALL)
        content = (tmp_path / "made/generation.json").read_text().replace("30", '"30"')
    (tmp_path / "generation.json").write_text(content)
    for call in (lambda: generate_shapes(tmp_path, **SMALL), lambda: load_shapes(tmp_path, "train")):
        with pytest.raises(DatasetError, match="holds other files"):
            call()
    assert (tmp_path / "images/a.jpg").read_text() == (tmp_path / "annotations/a.json").read_text() == "precious"


@pytest.mark.parametrize(
    "name",
    [
        "images/train/photo.jpg",
        "images/train/000031.png",
        "images/val/0000001.png",
        "images/test/a",
        "annotations/test.json",
    ],
)
def test_files_added_to_a_generated_folder_are_never_deleted(tmp_path, name):
    root = generate_shapes(tmp_path / "shapes", **SMALL)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("precious")
    with pytest.raises(
        DatasetError, match="holds other files .images" if "images" in name else "holds other files .anno"
    ):
        generate_shapes(root, **{**SMALL, "seed": 1})
    assert (root / name).read_text() == "precious"
    assert len(load_shapes(root, "train")) == 30


def test_files_added_during_generation_are_never_deleted(tmp_path, monkeypatch):
    root = generate_shapes(tmp_path / "shapes", **SMALL)
    write_split = shapes._write_split

    def write_and_add(*arguments):
        write_split(*arguments)
        (root / "images/val/photo.jpg").write_text("precious")

    monkeypatch.setattr(shapes, "_write_split", write_and_add)
    with pytest.raises(DatasetError, match="holds other files .images/val/photo.jpg"):
        generate_shapes(root, **{**SMALL, "seed": 1})
    assert (root / "images/val/photo.jpg").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_links_in_a_generated_folder_are_not_followed(tmp_path):
    root = generate_shapes(tmp_path / "shapes", **SMALL)
    (root / "images/val").rename(tmp_path / "elsewhere")
    (root / "images/val").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="holds other files .images/val"):
        generate_shapes(root, **{**SMALL, "seed": 1})
    assert len(list((tmp_path / "elsewhere").iterdir())) == 6


def test_invalid_arguments_raise_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"at least 16 pixels.*image_size=8"):
        generate_shapes(tmp_path / "shapes", image_size=8)
    with pytest.raises(DatasetError, match="train and val, not 'test'"):
        load_shapes(tmp_path / "shapes", "test")
