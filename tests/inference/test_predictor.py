import json
import logging

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.testing import assert_close

import detrex_lite
from detrex_lite.coco_classes import COCO_CLASSES
from detrex_lite.config import LazyConfig, trust
from detrex_lite.inference.class_names import find_class_names, find_classes
from detrex_lite.inference.predictor import Predictor

from .stand_in import CONFIG, WEIGHTS, ColourDetector

BOX = [40.0, 16.0, 80.0, 48.0]
RED, GREEN, BLUE = range(3)


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": WEIGHTS, "class_names": ["red", "green", "blue"]}, path)
    return path


@pytest.fixture
def predictor(config_file, weights):
    return Predictor(config_file, weights, device="cpu")


def picture(height=128, width=256, channel=RED):
    """(H, W, 3) uint8 RGB with a rectangle at `BOX`."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[16:48, 40:80, channel] = 255
    return pixels


def convert_image(kind, pixels, folder):
    if kind == "array":
        return pixels
    if kind == "tensor":
        return torch.from_numpy(pixels).permute(2, 0, 1)
    if kind == "PIL":
        return Image.fromarray(pixels)
    path = folder / "picture.png"
    Image.fromarray(pixels).save(path)
    return str(path) if kind == "text" else path


@pytest.mark.parametrize("kind", ["array", "tensor", "PIL", "path", "text"])
def test_every_image_type_gives_boxes_in_the_original_size(predictor, tmp_path, kind):
    result = predictor(convert_image(kind, picture(channel=GREEN), tmp_path))
    assert predictor.model.calls == [[(3, 64, 128)]]  # resized by the test transform
    assert result.image_size == (128, 256)
    assert_close(result.pred_boxes.tensor, torch.tensor([BOX]), atol=2.5, rtol=0)
    assert result.pred_classes.tolist() == [GREEN]
    assert_close(result.scores, torch.tensor([0.9]))
    assert result.scores.device.type == "cpu"
    assert not result.scores.is_inference()


def test_masks_have_the_original_size_and_low_scores_are_removed(config_file, weights):
    config = LazyConfig.load(str(config_file))
    config.model.with_masks = True
    small = np.ascontiguousarray(picture()[::2, ::2])
    for result in Predictor(config, weights, device="cpu", batch_size=2)([picture(), small]):
        height, width = result.image_size
        assert result.pred_masks.dtype == torch.bool
        assert result.pred_masks.shape == (1, height, width)
        expected = torch.zeros(height, width, dtype=torch.bool)
        expected[16 * height // 128 : 48 * height // 128, 40 * width // 256 : 80 * width // 256] = True
        assert (result.pred_masks[0] != expected).sum() < 0.1 * expected.sum()


def test_16_bit_pil_images_are_decoded_like_their_files(predictor, tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(picture().max(-1).astype(np.uint16) * 128).save(path)
    with Image.open(path) as opened:
        torch.testing.assert_close(predictor._to_rgb_tensor(opened), predictor._to_rgb_tensor(path), rtol=0, atol=0)
        from_pillow, from_file = predictor([opened, path])
    assert len(from_file) == 1
    for name in ("scores", "pred_classes"):
        assert_close(from_pillow.get(name), from_file.get(name), rtol=0, atol=0)


def test_a_truncated_pil_image_does_not_stop_the_iteration(predictor, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-300])
    with Image.open(tmp_path / "cut.jpg") as opened:
        (_, error), (_, result) = predictor.iterate([opened, tmp_path / "whole.jpg"])
    assert isinstance(error, ValueError)
    assert "truncated" in str(error)
    assert len(result) == 1


def test_detections_below_the_score_threshold_are_removed(config_file, weights):
    def count(score_threshold):
        return len(Predictor(config_file, weights, device="cpu", score_threshold=score_threshold)(picture()))

    assert [count(t) for t in (0.0, 0.31, 0.9, 0.91)] == [2, 1, 1, 0]


def test_a_call_may_override_the_thresholds(predictor):
    red = picture(channel=RED)
    assert [len(predictor(red, score_threshold=t)) for t in (0.1, 0.95, {"red": 0.1}, {"blue": 0.1}, [0.2, 1, 1])] == [
        2, 0, 2, 1, 2,
    ]  # fmt: skip
    assert len(predictor(red)) == 1
    predictor.score_threshold = {"red": 0.2}
    assert [len(predictor(red)), len(predictor(red, score_threshold={"green": 0.9}))] == [2, 2]
    assert [len(result) for _, result in predictor.iterate([red], score_threshold=1.0)] == [0]
    for call in (predictor, predictor.iterate):
        with pytest.raises(ValueError, match="'rde'.*'red'"):
            call([red], score_threshold={"rde": 0.2})


def test_a_threshold_for_an_unknown_class_raises_an_error_at_construction(config_file, weights):
    with pytest.raises(ValueError, match="'pink'"):
        Predictor(config_file, weights, device="cpu", score_threshold={"pink": 0.3})


def test_first_empty_result_logs_the_highest_score(predictor, caplog):
    result = predictor([picture(), picture()], score_threshold=0.95)[0]
    assert (result.info.highest_score, result.info.highest_class) == (pytest.approx(0.9), RED)
    assert "0.9 (red)" in caplog.text
    assert "score_threshold=0.8" in caplog.text  # 0.9 in float32 is slightly below 0.9
    predictor(picture(), score_threshold=0.95)
    assert len(caplog.records) == 1


def test_strong_downscaling_is_logged_once(predictor, caplog):
    large = picture(height=384, width=768)
    large[100:300, 100:300] = 255
    predictor([large, large])
    predictor(picture())
    [record] = caplog.records
    assert "384x768" in record.getMessage()
    assert "a factor of 6" in record.getMessage()


def test_folders_and_patterns_are_expanded_to_their_images(predictor, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, channel in (("a.png", RED), ("b.png", BLUE)):
        Image.fromarray(picture(channel=channel)).save(folder / name)
    (tmp_path / "empty").mkdir()
    results = predictor(folder)
    assert [result.info.file_name for result in results] == [str(folder / "a.png"), str(folder / "b.png")]
    assert [result.pred_classes.tolist() for result in predictor(str(folder / "b*.png"))] == [[BLUE]]
    assert len(predictor([str(folder), picture(), folder / "a.png"])) == 4
    (empty, error), (first, _), (second, _) = predictor.iterate([tmp_path / "empty", folder])
    assert empty == tmp_path / "empty"
    assert isinstance(error, ValueError)
    assert [first, second] == [str(folder / "a.png"), str(folder / "b.png")]
    with pytest.raises(ValueError, match="empty.* no image"):
        predictor(tmp_path / "empty")


def test_a_read_only_array_is_accepted_without_a_warning(predictor, recwarn):
    array = picture()
    array.flags.writeable = False
    assert len(predictor(array)) == 1
    assert not recwarn.list


CONFIG_TEXT = """
model: {_target_: tests.inference.stand_in.ColourDetector, num_classes: 3}
train: {init_checkpoint: elsewhere.pth}
"""


@pytest.mark.parametrize("location", ["inside", "next_to"])
@pytest.mark.parametrize("argument", ["file", "folder", "weights"])
def test_config_is_found_in_or_next_to_the_weights(tmp_path, location, argument):
    trust("tests")
    stored = {"model": WEIGHTS, "class_names": ["red", "green", "blue"], "category_ids": [4, 9, 2]}
    if location == "inside":
        stored["config"] = CONFIG_TEXT
        # The config in the checkpoint overrides this file of another run.
        (tmp_path / "config.yaml").write_text("model: {}\n")
    else:
        (tmp_path / "config.yaml").write_text(CONFIG_TEXT)
    torch.save({**stored, "model": {"scores": torch.zeros(2)}}, tmp_path / "model_final.pth")
    torch.save(stored, tmp_path / "model_best.pth")
    file = tmp_path / "model_best.pth"
    arguments = {"file": [file], "folder": [str(tmp_path)], "weights": [None, file]}[argument]
    predictor = Predictor(*arguments, device="cpu")
    assert len(predictor(picture())) == 1
    assert predictor.category_ids == (4, 9, 2)
    assert predictor(picture()).to_dict()["objects"][0]["category_id"] == 4


def test_overrides_change_the_config_of_weights(tmp_path):
    trust("tests")
    torch.save({"model": WEIGHTS, "config": CONFIG_TEXT}, tmp_path / "model.pth")
    assert Predictor(tmp_path / "model.pth", device="cpu", overrides=["model.num_classes=2"]).category_ids == (1, 2)


def test_weights_without_a_config_raise_an_error(tmp_path, weights):
    with pytest.raises(ValueError, match="model.pth has no config"):
        Predictor(weights, device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="it has none"):
        Predictor(tmp_path / "empty", device="cpu")
    with pytest.raises(ValueError, match="give a config and weights"):
        Predictor(device="cpu")
    with pytest.raises(ValueError, match="given as well"):
        Predictor(weights, weights, device="cpu")


def test_image_format_applies_to_arrays_and_tensors(config_file, weights):
    blue = picture(channel=BLUE)
    tensor = torch.from_numpy(blue).permute(2, 0, 1)
    as_rgb = Predictor(config_file, weights, device="cpu")
    as_bgr = Predictor(config_file, weights, device="cpu", image_format="BGR")
    assert [result.pred_classes.tolist() for result in as_rgb([blue, tensor])] == [[BLUE], [BLUE]]
    assert [result.pred_classes.tolist() for result in as_bgr([blue, tensor])] == [[RED], [RED]]
    assert as_bgr(Image.fromarray(blue)).pred_classes.tolist() == [BLUE]


def test_lists_are_batched_and_keep_their_order(config_file, weights):
    predictor = Predictor(config_file, weights, device="cpu", batch_size=2)
    images = [picture(channel=channel) for channel in (RED, GREEN, BLUE, GREEN, RED)]
    results = predictor(images)
    assert [result.pred_classes.tolist() for result in results] == [[0], [1], [2], [1], [0]]
    assert [len(call) for call in predictor.model.calls] == [2, 2, 1]
    assert predictor([]) == []
    assert isinstance(predictor(images[:1]), list)


def test_negative_strides_and_greyscale_images_are_accepted(predictor):
    assert predictor(picture(channel=BLUE)[:, :, ::-1]).pred_classes.tolist() == [RED]
    assert len(predictor(Image.fromarray(picture()[:, :, 0]))) == 1


def test_iterate_continues_after_broken_images(config_file, weights, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    items = [picture(channel=RED), broken, tmp_path / "absent.jpg", picture(channel=GREEN), 3]
    predictor = Predictor(config_file, weights, device="cpu", batch_size=2)
    results = list(predictor.iterate(iter(items)))
    assert [item for item, _ in results] == items
    assert [type(result).__name__ == "Instances" for _, result in results] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert "broken.jpg cannot be read" in str(results[1][1])
    assert "absent.jpg does not exist" in str(results[2][1])
    assert "cannot read a int as an image" in str(results[4][1])
    assert results[3][1].pred_classes.tolist() == [GREEN]


def test_iterate_reads_at_most_one_batch_ahead(config_file, weights):
    def images():
        yield picture()
        yield picture()
        raise AssertionError("read too far")

    predictor = Predictor(config_file, weights, device="cpu", batch_size=2)
    results = predictor.iterate(images())
    next(results)
    next(results)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"\(H, W, 3\) uint8 array, got shape \(4, 5, 3\) of float32"),
        (np.zeros((4, 5), np.uint8), r"\(H, W, 3\) uint8 array, got shape \(4, 5\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"got shape \(2, 4, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"got shape \(0, 5, 3\)"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), r"\(3, H, W\) uint8 tensor, got shape \(4, 5, 3\)"),
        (torch.zeros(3, 4, 5), r"\(3, H, W\) uint8 tensor, got .* of torch.float32"),
        (b"bytes", "cannot read a bytes as an image"),
        ("absent.png", "absent.png does not exist"),
    ],
)
def test_invalid_images_raise_an_error_with_their_position(predictor, image, message):
    with pytest.raises(ValueError, match="^the image: .*" + message):
        predictor(image)
    with pytest.raises(ValueError, match="^image 1 of the list: .*" + message):
        predictor([picture(), image])


def test_averaged_weights_are_preferred(config_file, tmp_path):
    torch.save({"model": {"scores": torch.zeros(2)}, "ema": WEIGHTS}, tmp_path / "training.pth")
    assert len(Predictor(config_file, tmp_path / "training.pth", device="cpu")(picture())) == 1


def test_weights_default_to_the_init_checkpoint_of_the_config(config_file, weights, caplog):
    config = LazyConfig.load(str(config_file))
    config.train.init_checkpoint = str(weights)
    assert len(Predictor(config, device="cpu")(picture())) == 1
    assert "initial values" not in caplog.text


def test_a_predictor_without_weights_logs_a_warning(config_file, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(Predictor(config_file, device="cpu")(picture())) == 0
    assert "initial weights" in caplog.text


def test_backbone_weights_are_not_downloaded(config_file, weights, monkeypatch):
    """A complete checkpoint replaces the backbone weights, so `model.backbone.weights` is not downloaded."""

    def build(self, *, num_classes, backbone):
        original(self, num_classes=num_classes)
        built_with.append(backbone)

    original, built_with = ColourDetector.__init__, []
    monkeypatch.setattr(ColourDetector, "__init__", build)
    config = LazyConfig.load(str(config_file))
    config.model.backbone = {"weights": "DEFAULT"}
    Predictor(config, weights, device="cpu")
    assert [backbone["weights"] for backbone in built_with] == [None]
    assert config.model.backbone.weights == "DEFAULT"


def test_images_are_not_resized_without_a_test_transform(weights):
    config = {"model": {"_target_": "tests.inference.stand_in.ColourDetector", "num_classes": 3}}
    predictor = Predictor(config, weights, device="cpu")
    assert_close(predictor(picture()).pred_boxes.tensor, torch.tensor([BOX]))
    assert predictor.model.calls == [[(3, 128, 256)]]


OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    torch.cuda.OutOfMemoryError("CUDA out of memory."),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("failing_part", ["augmentation", "model"])
def test_an_image_too_large_for_memory_is_reported_and_the_rest_is_processed(
    config_file, weights, tmp_path, monkeypatch, failing_part, error
):
    predictor = Predictor(config_file, weights, device="cpu", batch_size=3)
    paths = [tmp_path / name for name in ("a.png", "large.png", "c.png")]
    for path, width in zip(paths, (256, 512, 256), strict=True):
        Image.fromarray(picture(width=width)).save(path)
    resize, forward = predictor.augmentation, predictor.model.forward

    def augmentation(image, target):
        if image.shape[-1] == 512:
            raise error
        return resize(image, target)

    def model(inputs):
        if any(record["width"] == 512 for record in inputs):
            raise error
        return forward(inputs)

    if failing_part == "augmentation":
        predictor.augmentation = augmentation
    else:
        monkeypatch.setattr(predictor.model, "forward", model)
    first, large_result, last = (result for _, result in predictor.iterate(paths))
    assert [len(first), len(last)] == [1, 1]
    assert isinstance(large_result, ValueError)
    assert "large.png" in str(large_result)
    assert "128x512" in str(large_result)
    with pytest.raises(ValueError, match="memory"):
        predictor(paths[1])


def test_other_errors_of_the_model_are_not_caught(predictor, monkeypatch):
    def model(inputs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(predictor.model, "forward", model)
    with pytest.raises(RuntimeError, match="mat1"):
        predictor(picture())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold .* got 1.5"),
        ({"score_threshold": "0.5"}, "score_threshold .* got '0.5'"),
        ({"score_threshold": float("nan")}, "score_threshold .* got nan"),
        ({"score_threshold": True}, "score_threshold .* got True"),
        ({"batch_size": 0}, "batch_size .* got 0"),
        ({"batch_size": 1.5}, "batch_size .* got 1.5"),
        ({"batch_size": "2"}, "batch_size .* got '2'"),
        ({"image_format": "rgb"}, "image_format .* got 'rgb'"),
        ({"device": "gpu"}, "device .* got 'gpu'"),
    ],
)
def test_invalid_arguments_raise_an_error(config_file, weights, options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(config_file, weights, **{"device": "cpu", **options})


def test_a_missing_gpu_raises_an_error_and_auto_selects_the_cpu(config_file, weights, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device"):
        Predictor(config_file, weights, device="cuda")
    assert Predictor(config_file, weights, device="auto").device == torch.device("cpu")


def test_a_config_without_model_raises_an_error(weights):
    with pytest.raises(ValueError, match="no 'model'"):
        Predictor({"train": {}, "optimizer": {}}, weights)


def test_weights_of_another_model_raise_an_error(config_file, tmp_path):
    torch.save({"model": {"other.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="different model"):
        Predictor(config_file, tmp_path / "other.pth", device="cpu")


def test_incomplete_weights_raise_an_error(config_file, weights, monkeypatch):
    def build(self, *, num_classes):
        original(self, num_classes=num_classes)
        self.extra = torch.nn.Linear(2, 2)

    original = ColourDetector.__init__
    monkeypatch.setattr(ColourDetector, "__init__", build)
    with pytest.raises(ValueError, match=r"model.pth .* lacks 2 of .*extra.weight, extra.bias"):
        Predictor(config_file, weights, device="cpu")


def test_class_names_come_from_the_checkpoint(predictor):
    assert predictor.class_names == ("red", "green", "blue")


def test_class_names_fall_back_to_the_config_and_to_coco():
    config = OmegaConf.create({"dataloader": {"test": {"dataset": {"class_names": ["a", "b"]}}}})
    assert find_class_names(2, {"class_names": ["x", "y"]}, config) == ("x", "y")
    assert find_class_names(2, {"class_names": ["x"]}, config) == ("a", "b")
    assert find_class_names(2, {}, config) == ("a", "b")
    assert find_class_names(3, {}, config) == ("class 0", "class 1", "class 2")
    assert find_class_names(80, {}, config) == COCO_CLASSES
    assert find_class_names(80, {}, OmegaConf.create({}))[0] == "person"


def test_class_names_come_from_the_test_data_set_when_it_exists(tmp_path):
    annotations = tmp_path / "truth.json"
    node = {"_target_": "detrex_lite.data.load_coco", "annotations": str(annotations), "image_root": "."}
    config = OmegaConf.create({"dataloader": {"test": {"dataset": node}}})
    assert find_class_names(2, {}, config) == ("class 0", "class 1")
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 2, "width": 3}],
        "annotations": [],
        "categories": [{"id": 4, "name": "cup"}, {"id": 9, "name": "jug"}],
    }
    annotations.write_text(json.dumps(content))
    assert find_class_names(2, {}, config) == ("cup", "jug")


def test_category_ids_come_from_the_checkpoint_or_are_consecutive():
    config = OmegaConf.create({})
    stored = {"class_names": ["x", "y"], "category_ids": [7, 3]}
    assert find_classes(2, stored, config) == (("x", "y"), (7, 3))
    assert find_classes(2, {"class_names": ["x", "y"]}, config).category_ids == (1, 2)
    assert find_classes(2, {"class_names": ["x", "y"], "category_ids": []}, config).category_ids == (1, 2)
    coco = find_classes(80, {}, config)
    assert (coco.category_ids[0], coco.category_ids[-1], len(set(coco.category_ids))) == (1, 90, 80)
    assert coco.category_ids[coco.names.index("stop sign")] == 13


def test_category_ids_of_older_checkpoints_come_from_the_test_data_set(tmp_path):
    categories = [{"id": 4, "name": "cup"}, {"id": 9, "name": "jug"}]
    image = {"id": 1, "file_name": "1.jpg", "height": 2, "width": 3}
    (tmp_path / "truth.json").write_text(json.dumps({"images": [image], "annotations": [], "categories": categories}))
    node = {"_target_": "detrex_lite.data.load_coco", "annotations": str(tmp_path / "truth.json"), "image_root": "."}
    config = OmegaConf.create({"dataloader": {"test": {"dataset": node}}})
    assert find_classes(2, {"class_names": ["cup", "jug"]}, config).category_ids == (4, 9)
    assert find_classes(2, {"class_names": ["jug", "cup"]}, config).category_ids == (1, 2)


def test_coco_has_80_distinct_class_names():
    assert len(set(COCO_CLASSES)) == len(COCO_CLASSES) == 80


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_model_is_accelerated_only_on_a_cpu(config_file, weights, monkeypatch, device):
    accelerated = []
    monkeypatch.setattr("detrex_lite.inference.predictor.accelerate", accelerated.append)
    predictor = Predictor(config_file, weights, device=device)
    assert accelerated == ([predictor.model] if device == "cpu" else [])


def test_the_package_exports_the_predictor():
    assert detrex_lite.Predictor is Predictor
