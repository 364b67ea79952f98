import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from detrex_lite import cli
from detrex_lite.cli.predict import FUSIONS
from detrex_lite.commands import predict
from detrex_lite.config import LazyConfig
from detrex_lite.data import load_coco, record_masks
from detrex_lite.inference import merging

from ..inference.stand_in import CONFIG, WEIGHTS

RED, GREEN, BLUE = range(3)


def run(arguments):
    return cli.main(["predict", *arguments])


@pytest.fixture
def trained(tmp_path):
    """Write a stand-in config and its weights; returns the arguments that name both."""
    (tmp_path / "config.py").write_text(CONFIG)
    torch.save({"model": WEIGHTS, "class_names": ["red", "green", "blue"]}, tmp_path / "model.pth")
    return [
        "--config-file",
        str(tmp_path / "config.py"),
        "--weights",
        str(tmp_path / "model.pth"),
        "--device",
        "cpu",
    ]


def save_picture(path, channel=RED):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((128, 256, 3), dtype=np.uint8)
    pixels[16:48, 40:80, channel] = 255
    Image.fromarray(pixels).save(path)
    return str(path)


def read_predictions(output):
    return json.loads((output / "predictions.json").read_text())


def test_a_folder_of_images_is_drawn_and_listed(trained, tmp_path, capsys):
    photos, output = tmp_path / "photos", tmp_path / "new" / "output"
    save_picture(photos / "b.jpg", GREEN)
    save_picture(photos / "a.png", BLUE)
    (photos / "notes.txt").write_text("no image")
    assert run([*trained, str(photos), "--output", str(output)]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "b.jpg", "predictions.json"]

    content = read_predictions(output)
    assert [(image["id"], image["file_name"], image["drawn"]) for image in content["images"]] == [
        (1, str(photos / "a.png"), "a.png"),
        (2, str(photos / "b.jpg"), "b.jpg"),
    ]
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (256, 128)
    assert content["categories"] == [{"id": i, "name": n} for i, n in enumerate(["red", "green", "blue"], 1)]
    first, second = content["annotations"]
    assert (first["image_id"], first["category_id"]) == (1, BLUE + 1)
    assert (second["image_id"], second["category_id"]) == (2, GREEN + 1)
    assert first["bbox"] == pytest.approx([40, 16, 40, 32], abs=5)
    assert first["score"] == pytest.approx(0.9)
    assert "2 detections of score >= 0.5 in 2 images" in capsys.readouterr().out

    drawn = np.asarray(Image.open(output / "a.png"))
    assert drawn.shape == (128, 256, 3)
    assert (drawn != np.asarray(Image.open(photos / "a.png"))).any()


def test_the_list_loads_as_a_coco_data_set(trained, tmp_path):
    run([*trained, save_picture(tmp_path / "a.png"), "--output", str(tmp_path / "out")])
    coco = COCO(str(tmp_path / "out" / "predictions.json"))
    assert len(coco.loadAnns(coco.getAnnIds(imgIds=[1], catIds=[RED + 1]))) == 1


def test_masks_are_drawn_and_listed_as_run_lengths(trained, tmp_path):
    path = save_picture(tmp_path / "photos" / "a.png")
    assert run([*trained, path, "--output", str(tmp_path / "boxes")]) == 0
    options = ["--output", str(tmp_path / "masks"), "--score-threshold", "0.2", "--opts", "+model.with_masks=True"]
    assert run([*trained, path, *options]) == 0
    [box] = read_predictions(tmp_path / "boxes")["annotations"]
    assert "segmentation" not in box
    first, second = read_predictions(tmp_path / "masks")["annotations"]
    assert first["bbox"] == box["bbox"]
    coco = COCO(str(tmp_path / "masks" / "predictions.json"))
    mask = coco.annToMask(first)
    assert mask.sum() == first["area"] == second["area"] == pytest.approx(32 * 40, rel=0.1)
    assert mask[20:44, 44:76].all()
    drawn = [np.asarray(Image.open(tmp_path / name / "a.png")) for name in ("boxes", "masks")]
    assert (drawn[0][32, 60] == (255, 0, 0)).all()
    assert (drawn[1][32, 60] != (255, 0, 0)).any()
    # The list also loads as a data set with masks.
    dataset = load_coco(tmp_path / "masks" / "predictions.json", tmp_path, masks=True)
    assert (record_masks(dataset[0]).numpy() == mask.astype(bool)).all()


def test_a_broken_image_is_reported_and_skipped(trained, tmp_path, capsys):
    photos, output = tmp_path / "photos", tmp_path / "output"
    save_picture(photos / "a.png")
    (photos / "b.jpg").write_bytes(b"no image")
    save_picture(photos / "c.png")
    assert run([*trained, str(photos), "--output", str(output), "--batch-size", "2"]) == 1
    assert [image["drawn"] for image in read_predictions(output)["images"]] == ["a.png", "c.png"]
    error = capsys.readouterr().err
    assert "b.jpg cannot be read" in error
    assert "1 could not be read" in error


def test_a_missing_path_is_reported_and_skipped(trained, tmp_path, capsys):
    paths = [save_picture(tmp_path / "a.png"), str(tmp_path / "absent.png")]
    assert run([*trained, *paths, "--output", str(tmp_path / "output")]) == 1
    assert "absent.png does not exist" in capsys.readouterr().err
    assert len(read_predictions(tmp_path / "output")["images"]) == 1


def test_globs_are_expanded_and_repeated_files_listed_once(trained, tmp_path):
    first = save_picture(tmp_path / "photos" / "deep" / "a.png")
    save_picture(tmp_path / "photos" / "b.png")
    output = tmp_path / "output"
    assert run([*trained, str(tmp_path / "photos/**/*.png"), first, "--output", str(output)]) == 0
    assert sorted(image["drawn"] for image in read_predictions(output)["images"]) == ["a.png", "b.png"]


def test_files_with_the_same_name_in_several_folders_do_not_collide(trained, tmp_path):
    paths = [save_picture(tmp_path / name) for name in ("one/a.jpg", "two/a.jpg", "two/A.JPG", "one/a.bmp")]
    paths.append(save_picture(tmp_path / "two" / "a.png"))
    output = tmp_path / "output"
    assert run([*trained, *paths, "--output", str(output)]) == 0
    drawn = {image["file_name"]: image["drawn"] for image in read_predictions(output)["images"]}
    assert [drawn[path] for path in paths] == ["a.jpg", "a_2.jpg", "A_3.jpg", "a.png", "a_2.png"]
    for name in drawn.values():
        Image.open(output / name).verify()


def test_detections_below_the_threshold_are_left_out(trained, tmp_path):
    path = save_picture(tmp_path / "a.png")
    for threshold, count in (("0.2", 2), ("0.95", 0)):
        options = ["--output", str(tmp_path / "output"), "--score-threshold", threshold]
        assert run([*trained, path, *options]) == 0
        assert len(read_predictions(tmp_path / "output")["annotations"]) == count


def test_class_thresholds_and_conf_are_applied(trained, tmp_path, capsys):
    path = save_picture(tmp_path / "a.png", GREEN)

    def count(*options):
        assert run([*trained, path, "--output", str(tmp_path / "output"), *options]) == 0
        return len(read_predictions(tmp_path / "output")["annotations"])

    assert [count("--conf", "0.2"), count("--conf", "0.2", "--class-threshold", "green=0.5")] == [2, 1]
    assert "0.2 (other thresholds for green)" in capsys.readouterr().out
    for invalid_threshold in ("green", "green=much", "=0.5"):
        with pytest.raises(SystemExit, match="2"):
            count("--class-threshold", invalid_threshold)
    assert run([*trained, path, "--class-threshold", "gren=0.5"]) == 2
    assert "did you mean 'green'" in capsys.readouterr().err


def test_tiles_flips_and_scales_are_merged(trained, tmp_path, capsys):
    path = save_picture(tmp_path / "a.png", GREEN)
    output = tmp_path / "output"
    options = ["--output", str(output), "--flip", "--scales", "1,1.5", "--tile", "256", "--overlap", "0.1"]
    assert run([*trained, path, *options]) == 0
    [detection] = read_predictions(output)["annotations"]
    assert detection["bbox"] == pytest.approx([40, 16, 40, 32], abs=5)
    for invalid_options, status in (
        (["--overlap", "0.1"], "exit"),
        (["--fusion", "nms"], "exit"),
        (["--scales", "1;2"], "exit"),
        (["--tile", "0"], 2),
        (["--tile", "256", "--overlap", "1"], 2),
    ):
        if status == "exit":
            with pytest.raises(SystemExit, match="2"):
                run([*trained, path, *invalid_options])
        else:
            assert run([*trained, path, *invalid_options]) == status
        assert invalid_options[-2].strip("-") in capsys.readouterr().err
    assert FUSIONS == merging.FUSIONS


def test_without_a_detection_above_the_threshold_a_lower_one_is_suggested(trained, tmp_path, capsys):
    path = save_picture(tmp_path / "a.png", GREEN)
    assert run([*trained, path, "--output", str(tmp_path / "output"), "--conf", "0.95"]) == 0
    out = capsys.readouterr().out
    assert "0.9 (green in" in out
    assert "--conf 0.8" in out


def test_the_data_sets_category_ids_are_kept(trained, tmp_path):
    stored = {"model": WEIGHTS, "class_names": ["red", "green", "blue"], "category_ids": [12, 5, 40]}
    torch.save(stored, tmp_path / "model.pth")
    assert run([*trained, save_picture(tmp_path / "a.png", GREEN), "--output", str(tmp_path / "output")]) == 0
    content = read_predictions(tmp_path / "output")
    assert [category["id"] for category in content["categories"]] == [12, 5, 40]
    assert content["annotations"][0]["category_id"] == 5


def test_weights_with_a_config_need_no_config_file(trained, tmp_path):
    config = LazyConfig.to_yaml(LazyConfig.load(str(tmp_path / "config.py")))
    torch.save({"model": WEIGHTS, "config": config}, tmp_path / "model.pth")
    path = save_picture(tmp_path / "photos" / "a.png")
    for weights in (tmp_path, tmp_path / "model.pth"):
        options = ["--weights", str(weights), "--trust", "tests", "--device", "cpu", "--output", str(tmp_path / "out")]
        assert run([path, *options]) == 0


def test_overrides_reach_the_config(trained, tmp_path, capsys):
    path = save_picture(tmp_path / "a.png")
    options = ["--output", str(tmp_path / "output"), "--opts"]
    resize = "dataloader.test.mapper.augmentation.short_edge_length=32"
    assert run([*trained, path, *options, resize]) == 0
    assert run([*trained, path, *options, "model.num_clases=4"]) == 2
    assert "num_classes" in capsys.readouterr().err


def test_input_images_are_never_overwritten(trained, tmp_path, capsys):
    path = save_picture(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert run([*trained, path, "--output", str(tmp_path)]) == 2
    assert "a.png would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before


def call_before_drawing(monkeypatch, number, action):
    """Call `action` before image `number`, counted from 1, is drawn."""
    draw, calls = predict.draw_detections, []

    def draw_after_action(*args, **keywords):
        calls.append(args)
        if len(calls) == number:
            action()
        return draw(*args, **keywords)

    monkeypatch.setattr(predict, "draw_detections", draw_after_action)


def ctrl_c():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("stop", "status"), [(ctrl_c, 130), (terminate, 143)])
def test_detections_before_an_interruption_are_kept(trained, tmp_path, monkeypatch, capsys, stop, status):
    photos, output = tmp_path / "photos", tmp_path / "output"
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        save_picture(photos / name)
    call_before_drawing(monkeypatch, 3, stop)
    handler = signal.getsignal(signal.SIGTERM)
    assert run([*trained, str(photos), "--output", str(output)]) == status
    assert signal.getsignal(signal.SIGTERM) is handler
    content = read_predictions(output)
    assert [image["drawn"] for image in content["images"]] == ["a.jpg", "b.jpg"]
    assert [annotation["image_id"] for annotation in content["annotations"]] == [1, 2]
    assert sorted(path.name for path in output.iterdir()) == ["a.jpg", "b.jpg", "predictions.json"]
    error = capsys.readouterr().err
    assert "2 images" in error
    assert "Traceback" not in error


def test_the_list_is_valid_json_at_every_moment(trained, tmp_path, monkeypatch):
    """A killed program leaves a valid list; the list of an earlier run is replaced before the first image."""
    photos, output = tmp_path / "photos", tmp_path / "output"
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        save_picture(photos / name)
    monkeypatch.setattr(predict, "SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(predict, "SHARE_OF_WRITES", float("inf"))
    image_counts = []
    for number in (1, 2, 3):
        call_before_drawing(monkeypatch, number, lambda: image_counts.append(len(read_predictions(output)["images"])))
    output.mkdir()
    (output / "predictions.json").write_text('{"images": [1, 2, 3, 4]}')
    assert run([*trained, str(photos), "--output", str(output)]) == 0
    assert image_counts == [0, 1, 2]


def test_file_names_that_are_not_utf8_are_listed(trained, tmp_path, capsys):
    names = [b"caf\xe9.png", "\u732b.png".encode(), b"a" * 240 + b".png"]
    paths = [os.fsdecode(os.fsencode(tmp_path) + b"/" + name) for name in names]
    picture = save_picture(tmp_path / "plain.png")
    try:
        for path in paths:
            with open(picture, "rb") as source, open(path, "wb") as copy:
                copy.write(source.read())
    except OSError:
        pytest.skip("this file system accepts only names in UTF-8")
    output = tmp_path / os.fsdecode(b"out\xe9")
    assert run([*trained, *paths, "--output", str(output)]) == 0
    content = read_predictions(output)
    assert [image["file_name"] for image in content["images"]] == paths
    assert len(content["annotations"]) == 3
    assert "\u732b.png" in (output / "predictions.json").read_text("utf-8")  # names in UTF-8 are not escaped
    for image in content["images"]:
        Image.open(output / image["drawn"]).verify()
    assert "out\\udce9" in capsys.readouterr().out


def test_control_characters_do_not_reach_the_terminal(trained, tmp_path, capsys):
    (tmp_path / "\x1b[31mred.png").write_bytes(b"no image")
    paths = [str(tmp_path / "\x1b[31mred.png"), str(tmp_path / "\x1b[32mabsent.png"), save_picture(tmp_path / "a.png")]
    assert run([*trained, *paths, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "\x1b[3" not in error
    assert "\\x1b[31mred.png" in error
    assert "\\x1b[32mabsent.png" in error


def test_an_address_is_reported_unchanged(trained, tmp_path, capsys):
    address = "https://example.com/a.jpg"
    assert run([*trained, address, "--output", str(tmp_path / "out")]) == 2
    assert f"{address} is an address" in capsys.readouterr().err


def make_file(path):
    path.write_text("")


def make_folder_named_like_the_list(path):
    (path / "predictions.json").mkdir(parents=True)


@pytest.mark.parametrize("occupy", [make_file, make_folder_named_like_the_list])
def test_an_unwritable_output_is_reported_before_the_model_is_loaded(trained, tmp_path, capsys, monkeypatch, occupy):
    monkeypatch.setattr(predict, "predictor_of", lambda args, **settings: pytest.fail("the model was loaded"))
    picture = save_picture(tmp_path / "a.png")
    occupy(tmp_path / "taken")
    for output in (tmp_path / "taken", *([tmp_path / "taken" / "below"] if occupy is make_file else [])):
        assert run([*trained, picture, "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert str(output) in error
        assert error.count("\n") == 1


def test_a_drawing_that_does_not_fit_on_the_disk_is_reported(trained, tmp_path, capsys):
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    output = tmp_path / "output"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert run([*trained, str(tmp_path / "a.png"), "--output", str(output)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(output / "a.png") in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["predictions.json"]
    assert read_predictions(output)["images"] == []


def test_an_empty_folder_is_reported(trained, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run([*trained, str(tmp_path / "empty")]) == 2
    assert "no image found" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "absent.pth"], "absent.pth"),
        (["--config-file", "absent.py"], "absent.py"),
        (["--score-threshold", "7"], "score_threshold must be in 0..1"),
        (["--batch-size", "0"], "batch_size must be"),
        (
            ["--opts", "+dataloader.test.mapper.augmentation={_target_: os.system, command: echo attacked}"],
            "'os.system' is not called",
        ),
    ],
)
def test_invalid_options_are_reported_without_output(trained, tmp_path, capsys, options, message):
    output = tmp_path / "output"
    assert run([*trained, save_picture(tmp_path / "a.png"), "--output", str(output), *options]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_published_model_can_use_a_local_file(trained, tmp_path, monkeypatch):
    """--weights replaces the download of the file."""
    table = tmp_path / "projects" / "colours" / "zoo.py"
    (table.parent / "configs").mkdir(parents=True)
    (table.parent / "configs" / "colours.py").write_text(CONFIG)
    table.write_text(
        "from detrex_lite.zoo import detrex\n"
        "ENTRIES = (detrex('https://example.org')('colours', 'colours', 1, 90.0, 'missing.pth'),)"
    )
    monkeypatch.setattr("detrex_lite.SHIPPED_IN", tmp_path)
    photo, output = save_picture(tmp_path / "photo.png", GREEN), tmp_path / "output"
    arguments = ["--model", "colours", "--weights", str(tmp_path / "model.pth"), "--device", "cpu"]
    assert run([*arguments, photo, "--output", str(output)]) == 0
    assert [annotation["category_id"] for annotation in read_predictions(output)["annotations"]] == [GREEN + 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "a", "--config-file", "b.py"], "--model has its own config"),
        (["--config-file", "b.py"], "--weights of a run, or a published --model"),
        ([], "--weights of a run, or a published --model"),
    ],
)
def test_exactly_one_model_must_be_given(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run([*arguments, "photo.jpg"])
    assert message in capsys.readouterr().err


def test_an_unknown_model_is_reported(tmp_path, capsys):
    assert run(["--model", "yolo", save_picture(tmp_path / "a.png")]) == 2
    assert "no published checkpoint 'yolo'" in capsys.readouterr().err


def test_paths_expand_the_home_folder(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_picture(tmp_path / "a.png")
    arguments = ["--config-file=~/config.py", "--weights=~/model.pth", "--output=~/found", "--device=cpu", "~/a.png"]
    assert run(arguments) == 0
    assert len(read_predictions(tmp_path / "found")["images"]) == 1
