"""Sections of the report about detection errors: their HTML, and a screenshot of a browser."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from detrex_lite.data import read_image
from detrex_lite.visualization import draw_errors, write_error_page, write_report
from detrex_lite.visualization.error_pictures import KIND_COLOURS, RIGHT_COLOUR

from .error_cases import evaluate_faulty_outputs, model_output, shapes_dataset
from .test_report import HTML_NAME, page_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    return evaluate_faulty_outputs(shapes_dataset(folder / "shapes"), folder / "evaluation")


def write_page(folder, evaluator, number=4):
    def images_of(analysis):
        for position in analysis.worst_images(number):
            yield position, f"{position}.png", read_image(evaluator.dataset.file_name(position))

    write_error_page(folder, evaluator.analyses, images_of, "detected by model_best.pth")
    return page_of(folder)


def test_error_page_of_an_evaluation_without_a_run(evaluation, tmp_path):
    page = write_page(tmp_path, evaluation)
    content = json.loads((tmp_path / "report_errors.json").read_text())
    for sentence in content["boxes"]["sentences"]:
        assert sentence in page
    assert "detected by model_best.pth" in page
    assert page.count("data:image/jpeg;base64,") == 2 * 4
    for title in ("What is wrong", "Classes", "Confusions", "Sizes, crowding and scores", "Worst images"):
        assert f">{title}</h2>" in page
    for kind, values in content["boxes"]["kinds"].items():
        assert re.search(rf'{kind}<small>.*?<td class="number">{values["count"]:,}<', page), kind
    for name in evaluation.dataset.class_names:
        assert page.count(f"<td>{name}<") >= 1, name


def test_error_file_lists_the_worst_images_by_file_name(evaluation):
    content = json.loads((evaluation.output_dir / "errors.json").read_text())
    worst = content["boxes"]["worst_images"]
    costs = [image["cost"] for image in worst]
    assert costs == sorted(costs, reverse=True)
    assert {image["file_name"] for image in worst} <= {record["file_name"] for record in evaluation.dataset}
    assert sum(costs) == pytest.approx(100 * evaluation.analyses["boxes"].costs.sum(), abs=0.01)


def test_class_names_are_escaped(tmp_path):
    dataset = shapes_dataset(tmp_path / "shapes", 2)
    dataset.class_names = (HTML_NAME, *dataset.class_names[1:])
    page = write_page(tmp_path, evaluate_faulty_outputs(dataset))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "content",
    [
        {},
        ["<script>"],
        {"of": "x", "boxes": {"pictures": [{"caption": "a", "panels": ["<script>", "AAAA"]}]}},
        {"of": "x", "boxes": {"pictures": [], "sentences": ["<script>"], "objects": "<script>", "images": 3}},
    ],
)
def test_malformed_error_files_are_ignored(tmp_path, content):
    (tmp_path / "report_errors.json").write_text(json.dumps(content))
    page = write_report(tmp_path).read_text()
    assert "report_errors.json cannot be read" in page
    assert "<script" not in page


def colours_of(image):
    return {tuple(colour) for colour in np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist()}


def test_each_kind_of_error_is_drawn_in_the_colour_of_its_kind(tmp_path):
    dataset = shapes_dataset(tmp_path / "shapes", 4)
    record = max(dataset, key=lambda record: len(record["classes"]))
    position = int(np.flatnonzero(dataset.image_ids == record["image_id"])[0])

    def drawn_colours(change):
        evaluator = evaluate_faulty_outputs(dataset)
        evaluator.reset()
        for other_record in dataset:
            boxes, classes = other_record["boxes"].numpy(), other_record["classes"].numpy()
            boxes, classes = (
                change(boxes, classes) if other_record["image_id"] == record["image_id"] else (boxes, classes)
            )
            evaluator.process([other_record], [model_output(other_record, boxes, [0.9] * len(boxes), classes)])
        evaluator.evaluate()
        image = Image.new("RGB", (record["width"], record["height"]))
        left, right = draw_errors(image, evaluator.analyses["boxes"], position, 2 * record["width"]).panels
        assert left.size == right.size == (2 * record["width"], 2 * record["height"])
        return colours_of(right) & {*KIND_COLOURS.values(), RIGHT_COLOUR}

    assert drawn_colours(lambda boxes, classes: (boxes, classes)) == {RIGHT_COLOUR}
    assert drawn_colours(lambda boxes, classes: (boxes[:0], classes[:0])) == {KIND_COLOURS["missed"]}
    assert KIND_COLOURS["classification"] in drawn_colours(lambda boxes, classes: (boxes, (classes + 1) % 3))
    duplicates = drawn_colours(lambda boxes, classes: (np.concatenate([boxes, boxes + 2]), np.tile(classes, 2)))
    assert duplicates == {RIGHT_COLOUR, KIND_COLOURS["duplicate"]}


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_a_browser_renders_the_page(evaluation, tmp_path):
    write_page(tmp_path, evaluation)
    screenshot = tmp_path / "page.png"
    take_screenshot(tmp_path / "report.html", screenshot, tmp_path / "profile")
    pixels = np.asarray(Image.open(screenshot).convert("RGB")).astype(int)
    assert pixels.shape[1] == 1200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    # The right margin is empty, so the page is not wider than the window.
    assert (pixels[:, -8:] == pixels[0, -1]).all()


def take_screenshot(page, screenshot, profile, height=3600):
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --hide-scrollbars"
    command = [BROWSER, *flags.split(), f"--user-data-dir={profile}", f"--window-size=1200,{height}"]
    subprocess.run(
        [*command, f"--screenshot={screenshot}", page.as_uri()], check=True, capture_output=True, timeout=120
    )
