"""The Python code in the documentation runs without changes."""

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

import detrex_lite.zoo.predictor
from detrex_lite import Predictor
from detrex_lite.checkpoint import convert_state_dict, save_atomic
from detrex_lite.config import LazyConfig, get_config, validate
from detrex_lite.modeling import Comparison, HungarianMatcher, VarifocalLoss
from detrex_lite.testing import SMALL, build, changed, make_batch, predict, require_all_gradients

from .pages import ROOT, blocks, commands, links

GUIDE = "docs/new_detector.md"  # tested separately
NEEDS = {"docs/backbones.md": "timm", "docs/detectron2.md": "detectron2", "docs/deployment.md": "onnx"}
SLOW = ("docs/deployment.md",)
PAGES = [page for page in links.pages() if page != GUIDE and blocks(page)]


def write_files(page, folder):
    """Write the files that a page shows into a folder; returns their paths."""
    paths = []
    for block in blocks(page):
        if block.name is not None:
            paths.append(folder / block.name)
            paths[-1].parent.mkdir(exist_ok=True)
            paths[-1].write_text(block.code)
    return paths


def import_from(folder, monkeypatch):
    """Yield with a folder as the current one and on the import path; afterwards unload the modules imported from it."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the files that the code of pages expects: a run in output/ and a photograph."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = get_config("projects/dino/configs/dino_small_shapes.py")
    changed(cfg.model, {**SMALL, "num_classes": 3, "num_queries": 100, "backbone.weights": None})
    (folder / "output").mkdir()
    LazyConfig.save(cfg, folder / "output/config.yaml")
    weights = {"model": build(cfg.model).state_dict(), "class_names": ["circle", "square", "triangle"]}
    save_atomic(weights, folder / "output/model_best.pth")
    Image.new("RGB", (96, 64)).save(folder / "photo.jpg")
    return folder


@pytest.fixture
def page_folder(trained, tmp_path, monkeypatch):
    """A new current folder with the files of `trained`; the zoo loads the run in output/ there."""
    for path in trained.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/photos").symlink_to(trained / "output")

    def load(*args, **options):
        return Predictor("output/config.yaml", "output/model_best.pth", device="cpu")

    monkeypatch.setattr(detrex_lite.zoo.predictor, "load", load)
    yield from import_from(tmp_path, monkeypatch)


def variables_for(page, folder):
    """The variables that the code of a page expects; writes the checkpoint that it reads."""
    if page != "docs/checkpoints.md":
        return {}
    cfg = changed(get_config("projects/detr/configs/models/detr_r50_paper.py").model, {**SMALL, "num_classes": 3})
    model = build(cfg)
    (folder / "detr-resnet-50").mkdir()
    save_atomic(convert_state_dict(model.state_dict(), "transformers"), folder / "detr-resnet-50/model.safetensors")
    return {"model": model}


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page for page in PAGES]
)
def test_the_code_of_a_page_runs(page, page_folder):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    for path in write_files(page, page_folder):
        if "detrex_lite.config" in path.read_text():  # a config
            validate(LazyConfig.load(str(path)))
    namespace = {"__name__": "page", **variables_for(page, page_folder)}
    for block in blocks(page):
        code = compile(block.code, page, "exec")
        if block.name is None and block.reason is None:
            exec(code, namespace)


def test_the_detector_in_60_lines_is_that_short_and_trains(page_folder):
    (path, _) = write_files("docs/sixty_lines.md", page_folder)
    lines = path.read_text().split("\n\n\n", 1)[1].splitlines()  # without imports
    assert len([line for line in lines if line.strip()]) <= 60
    from mini_detr import MiniDETR

    model = MiniDETR(num_classes=5)
    require_all_gradients(model, model(make_batch()))
    with torch.no_grad():
        alone, together = (model.eval()(images)[0]["instances"] for images in (make_batch()[:1], make_batch()))
    torch.testing.assert_close(alone.scores, together.scores)


def test_the_loss_of_the_page_is_varifocal_loss(page_folder):
    write_files("docs/write_a_loss.md", page_folder)
    from my_costs import CentreCost
    from my_varifocal import MyVarifocalLoss

    model = build(changed(get_config("projects/dino/configs/models/dino_small.py").model, dict(SMALL)))
    inputs = make_batch()
    sets = {"": predict(model, inputs, targets=True)[""]}
    targets = model.targets(inputs, model.preprocess(inputs, as_published=True))
    comparison = Comparison.of(sets, HungarianMatcher({"centre": CentreCost(2.0)})(sets, targets), targets)
    torch.testing.assert_close(MyVarifocalLoss()(comparison).sum(), comparison.sums(VarifocalLoss()(comparison)).sum())


def test_the_command_that_changes_the_backbone_keeps_the_strides_of_the_config():
    pytest.importorskip("timm")
    (command,) = (words for words in commands("docs/backbones.md") if "dino_small" in words)
    cfg = get_config("projects/dino/configs/dino_small_shapes.py")
    strides = []
    for overrides in ([], [word for word in command if "=" in word]):
        LazyConfig.apply_overrides(cfg, overrides)
        model = build(cfg.model)
        maps = model.backbone(torch.zeros(1, 3, 64, 64))
        strides.append([64 // maps[name].shape[-1] for name in model.neck.in_features])
    assert strides == [[8, 16], [8, 16]]


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """A folder with the files of docs/new_detector.md."""
    folder = tmp_path_factory.mktemp("guide")
    write_files(GUIDE, folder)
    (folder / "my_detectors/__init__.py").touch()
    return folder


@pytest.fixture
def in_guide(guide, monkeypatch):
    yield from import_from(guide, monkeypatch)


@pytest.mark.parametrize(
    ("config", "expected_losses"),
    [
        ("overlap_r50", {"loss_overlap", "loss_overlap_0"}),
        ("similarity_r50", {"loss_bbox_dn"}),
        ("two_passes_r50", {"loss_bbox_0_first", "loss_distance"}),
    ],
)
def test_the_detectors_of_the_guide_train_and_detect(in_guide, config, expected_losses):
    model = build(changed(LazyConfig.load(f"my_detectors/{config}.py").model, dict(SMALL))).train()
    batch = make_batch()
    losses = model(batch)
    assert expected_losses <= set(losses)
    require_all_gradients(model, losses)
    with torch.no_grad():
        detections = model.eval()(batch)
    assert all(len(image["instances"]) > 0 for image in detections)


def test_predicted_overlaps_scale_the_scores(in_guide):
    cfg = changed(LazyConfig.load("my_detectors/overlap_r50.py").model, dict(SMALL))
    model = build(cfg).eval()
    with torch.no_grad():
        before = model(make_batch())[0]["instances"].scores
        for head in model.heads.extra_embed["overlap"]:
            torch.nn.init.constant_(head.bias, -20.0)  # every predicted overlap is near zero
        after = model(make_batch())[0]["instances"].scores
    assert before.max() > 10 * after.max()


def test_the_training_config_of_the_guide_resolves(in_guide):
    cfg = LazyConfig.load("my_detectors/overlap_small_shapes.py")
    assert cfg.model.heads.extra.overlap.in_features == cfg.model.embed_dim == 128
    assert cfg.train.output_dir == "output/overlap_small_shapes"


@pytest.mark.slow
def test_the_test_of_the_guide_passes(guide):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(guide), str(ROOT)])}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=guide,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]


def test_the_bias_of_the_guide_is_zero_at_first(in_guide):
    model = build(changed(LazyConfig.load("my_detectors/similarity_r50.py").model, dict(SMALL)))
    assert not model.transformer.decoder.similarity_weight.any()
