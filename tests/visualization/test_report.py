import base64
import io
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from detrex_lite.analysis.inspection import CrossAttention, Inspection
from detrex_lite.structures import Boxes, Instances
from detrex_lite.visualization import SheetRow, denoising_ratios, write_decoder_page, write_report, write_samples
from detrex_lite.visualization.charts import MOST_POINTS, Curve, line_chart

HTML_NAME = '<script>alert("x")</script>&'


def losses(iteration):
    names = ("loss_class", "loss_class_0", "loss_class_1", "loss_class_enc", "loss_class_dn", "loss_class_dn_0")
    values = {name: 10 / iteration + number for number, name in enumerate(names)}
    return {
        "iteration": iteration,
        "total_loss": sum(values.values()),
        **values,
        "lr": 1e-4,
        "time": 0.5,
        "data_time": 0.1,
        "images_per_second": 4.0,
    }


def write_run(folder, lines, config="model: {}\n"):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if config is not None:
        (folder / "config.yaml").write_text(config)
    return folder


class ResourceParser(HTMLParser):
    """Lists the resources that a page would load and the scripts that it would run."""

    def __init__(self):
        super().__init__()
        self.resources, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        if tag in ("script", "link", "iframe") or not values.get("src", "data:").startswith("data:"):
            self.resources.append((tag, values))


def page_of(folder):
    page = write_report(folder).read_text(encoding="utf-8")
    parser = ResourceParser()
    parser.feed(page)
    assert parser.resources == []
    assert "http" not in page
    for chart in re.findall(r"<svg.*?</svg>", page, re.S):
        assert "nan" not in chart
        assert "inf" not in chart
        ET.fromstring(chart)
    return page


def captions(page):
    return re.findall(r"<figcaption>(.*?)</figcaption>", page)


def test_report_has_all_sections_of_a_run(tmp_path):
    lines = [losses(i) for i in range(1, 60)]
    lines += [{"iteration": 30, "bbox/AP": 21.5, "bbox/AP50": 30.0, "bbox/AP-cat": 21.5, "bbox/AP-dog": None}]
    lines += [{"iteration": 59, "bbox/AP": 20.5, "bbox/AP50": 31.0, "bbox/AP-cat": 20.5, "bbox/AP-dog": None}]
    page = page_of(write_run(tmp_path / "run", lines))
    assert captions(page) == [
        "AP, %",
        "AP of each class at the last evaluation, %; - means no objects",
        "total loss",
        "denoising loss over matching loss, last layer: below 1 if matching is the harder task",
        "loss_class, by layer",
        "loss_class, denoising, by layer",
        "learning rate",
        "images per second",
        "seconds per step",
    ]
    for text in ("<title>run</title>", "best AP, at 30</div>", "<b>21.5</b>", "layer 1", "encoder", "model: {}"):
        assert text in page, text
    assert "<b>4</b>images/s, median" in page
    assert len(page) < 60_000


def test_masks_and_panoptic_quality_have_separate_sections(tmp_path):
    values = {"bbox/AP": 20.5, "bbox/AP-cat": 20.5, "segm/AP": 18.25, "segm/AP50": 30.0, "segm/AP-cat": 18.25}
    values |= {"panoptic_seg/PQ": 40.75, "panoptic_seg/PQ_th": 41.0, "panoptic_seg/PQ-sky": 39.0}
    page = page_of(write_run(tmp_path / "run", [losses(1), {"iteration": 1, **values}]))
    titles = ["AP, %", "AP of each class at the last evaluation, %; - means no objects"]
    quality = ["PQ, SQ and RQ, %", "of things, %", "PQ of each class at the last evaluation, %; - means no objects"]
    assert captions(page)[:7] == [*titles, *titles, *quality]
    for text in ("best mask AP, at 1</div>", "<b>18.2</b>mask AP<", "<b>40.8</b>PQ<", "<h2>Panoptic quality</h2>"):
        assert text in page, text
    assert "Further numbers" not in page


def test_scalars_logged_by_a_model_are_in_the_report(tmp_path):
    lines = [{**losses(iteration), "gate": iteration / 10} for iteration in (1, 2)]
    assert "Further numbers" not in page_of(write_run(tmp_path / "plain", [losses(1), losses(2)]))
    assert re.search(r"Further numbers.*<figcaption>gate<", page_of(write_run(tmp_path / "gate", lines)), re.DOTALL)


def test_report_of_a_run_without_evaluation_or_config(tmp_path):
    page = page_of(write_run(tmp_path / "run", [losses(1)], config=None))
    assert "Average precision" not in page
    assert "Config" not in page
    assert "total loss" in page


def test_report_of_an_empty_log_says_so(tmp_path):
    assert "Nothing has been logged yet" in page_of(write_run(tmp_path / "run", []))


def test_values_that_are_not_finite_are_gaps_in_curves_and_are_reported(tmp_path):
    lines = [losses(i) for i in range(1, 6)]
    lines[2]["total_loss"] = None  # the engine writes null for values that are not finite
    lines[3]["total_loss"] = math.nan
    lines += [{"iteration": 5, "bbox/AP": None, "bbox/APs": None}]
    page = page_of(write_run(tmp_path / "run", lines))
    assert "not finite at 2 of the logged iterations, first at 3." in page
    chart = page[page.index("<figcaption>total loss") :]
    path = re.search(r'<path d="(.*?)"', chart)[1]
    assert path.count("M") == 2
    assert "AP, %" not in captions(page)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], "at the last evaluation"),
        ([1.0, 5.0, 4.0, 4.5, 4.2], "at iteration 200 of 500"),
        ([1.0, 4.0, 4.5, 5.0, 4.9], None),
        ([0.0, 0.0, 0.0, 0.0], None),
        ([3.0, 2.0, 1.0], None),  # too few evaluations
    ],
)
def test_development_of_the_metric_is_explained(tmp_path, values, words):
    write_run(tmp_path, [{"iteration": 100 * (index + 1), "bbox/AP": value} for index, value in enumerate(values)])
    page = write_report(tmp_path).read_text()
    assert ("AP was highest" in page) == (words is not None)
    assert words is None or words in page


def test_later_line_of_a_resumed_run_overrides_the_earlier_line(tmp_path):
    lines = [losses(1), losses(2), {**losses(2), "total_loss": 77.0}]
    assert "<b>77</b>total loss" in page_of(write_run(tmp_path / "run", lines))


def test_html_in_names_is_escaped(tmp_path):
    lines = [losses(1), {"iteration": 1, "bbox/AP": 1.0, f"bbox/AP-{HTML_NAME}": 1.0, f"loss_{HTML_NAME}": 1.0}]
    folder = write_run(tmp_path / "a<b>&", lines, config=f"name: {HTML_NAME}\n")
    row = SheetRow(Image.new("RGB", (40, 30)), truth(40, 30), detections(40, 30), HTML_NAME)
    write_samples(folder, [row], class_names=[HTML_NAME], iteration=1)
    page = page_of(folder)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 5  # loss: caption and label of the chart; class; sample; config
    assert "<h1>a&lt;b&gt;&amp;</h1>" in page


def truth(width, height):
    return Instances(
        (height, width),
        gt_boxes=Boxes(torch.tensor([[2.0, 3, 20, 25]])),
        gt_classes=torch.tensor([0]),
    )


def detections(width, height):
    return Instances(
        (height, width),
        pred_boxes=Boxes(torch.tensor([[2.0, 3, 20, 25], [0, 0, 5, 5]])),
        scores=torch.tensor([0.9, 0.1]),
        pred_classes=torch.tensor([0, 0]),
    )


def test_samples_are_embedded_as_thumbnails(tmp_path):
    folder = write_run(tmp_path / "run", [losses(1)])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 480, 640), dtype=torch.uint8, generator=generator)
    rows = [SheetRow(noise, truth(640, 480), detections(640, 480), "a.jpg")]
    write_samples(folder, rows, class_names=["cat"], iteration=7)
    page = page_of(folder)
    pictures = [base64.b64decode(encoded) for encoded in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)]
    assert [Image.open(io.BytesIO(picture)).size for picture in pictures] == [(300, 225)] * 2
    assert "Detections at iteration 7" in page
    assert "a.jpg · 1 object, 2 detections, scores 0.90 to 0.10<" in page


def test_report_is_written_to_the_given_path(tmp_path):
    folder = write_run(tmp_path / "run", [losses(1)])
    assert write_report(folder, tmp_path / "new" / "page.html") == tmp_path / "new" / "page.html"
    assert not (folder / "report.html").exists()


def test_a_folder_without_a_run_raises_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="metrics.jsonl"):
        write_report(tmp_path)


def test_long_curves_are_averaged_to_few_points():
    points = [(i, math.nan if 2000 <= i < 3000 else float(i % 2)) for i in range(10_000)]
    chart = line_chart("x", [Curve("x", points, "red")])
    path = re.search(r'<path d="(.*?)"', chart)[1]
    assert len(re.findall("[ML]", path)) <= MOST_POINTS
    assert path.count("M") == 2


def test_charts_of_one_point_or_one_value_are_valid_svg():
    for points in ([(5, 0.0)], [(1, 2.0), (2, 2.0)], [(5, -3.0)]):
        ET.fromstring(re.search("<svg.*</svg>", line_chart("x", [Curve("x", points, "red")]))[0])
    assert line_chart("x", [Curve("x", [(1, math.nan)], "red")]) == ""


def test_importing_the_package_does_not_import_matplotlib():
    code = "import sys, detrex_lite.visualization as v; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "content",
    [
        {"iteration": 1, "samples": [{"caption": "a", "panels": ['"><script>alert(1)</script>', "AAAA"]}]},
        {"iteration": 1, "samples": [{"caption": "a", "panels": ["AAAA"]}]},
        {"iteration": "<script>", "samples": []},
        {"samples": [{"caption": 3}]},
        ["<script>"],
    ],
)
def test_malformed_sample_files_are_ignored(tmp_path, content):
    (tmp_path / "report_samples.json").write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text("")
    page = write_report(tmp_path).read_text()
    assert "<script" not in page
    assert "report_samples.json cannot be read" in page


def test_denoising_ratio_is_denoising_loss_over_matching_loss():
    series = {
        "loss_bbox": [(1, 2.0), (2, 0.0), (3, 4.0), (4, math.nan)],
        "loss_bbox_dn": [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 1.0)],
        "loss_bbox_0": [(1, 5.0)],
        "loss_bbox_dn_0": [(1, 5.0)],
        "loss_class": [(1, 3.0)],
    }
    assert denoising_ratios(series) == {"loss_bbox": [(1, 0.5), (3, 0.25)]}


def inspections(number):
    boxes = np.array([[[2.0, 2, 20, 20]], [[4.0, 4, 30, 25]]])
    attention = CrossAttention(np.full((1, 2, 3), 1 / 3), np.full((1, 2, 3, 2), 0.5), levels=np.array([0, 0, 1]))
    inspection = Inspection((30, 40), np.array([[[0.5]], [[0.75]]]), boxes, (attention, attention))
    return [("a.jpg", Image.new("RGB", (40, 30)), inspection)] * number


def test_decoder_page_adds_a_section_to_the_report(tmp_path):
    folder = write_run(tmp_path / "run", [losses(1)])
    matches = np.array([[0, 1, 2], [0, 1, 3]])
    write_decoder_page(folder, inspections(5), matches, [HTML_NAME], "detected at iteration 1")
    page = page_of(folder)
    assert "Inside the decoder" in page
    assert page.count("data:image/jpeg;base64,") == 2 * 3
    assert "a.jpg · query 0, score 0.75<" in page
    assert "0.6667 at layer 1" in page
    assert "1 at layer 2" in page
    assert "<script" not in page


@pytest.mark.parametrize("content", [[], {}, {"of": "a", "pictures": [{"caption": "a", "panels": ["<script>", "a"]}]}])
def test_malformed_decoder_files_are_ignored(tmp_path, content):
    (tmp_path / "report_decoder.json").write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text("")
    page = write_report(tmp_path).read_text()
    assert "report_decoder.json cannot be read" in page
    assert "<script" not in page
