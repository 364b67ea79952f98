"""The code in the guides runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detrex_lite.config import LazyConfig
from detrex_lite.testing import SMALL, build, changed, make_batch, require_all_gradients

ROOT = Path(__file__).parents[1]
NAMED_BLOCK = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """A folder with the files of docs/new_detector.md."""
    folder = tmp_path_factory.mktemp("guide")
    for name, code in NAMED_BLOCK.findall((ROOT / "docs/new_detector.md").read_text()):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    (folder / "my_detectors/__init__.py").touch()
    return folder


@pytest.fixture
def here(guide, monkeypatch):
    monkeypatch.chdir(guide)
    monkeypatch.syspath_prepend(str(guide))
    yield guide
    for name in [name for name in sys.modules if name.split(".")[0] == "my_detectors"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("config", "further"),
    [
        ("overlap_r50", {"loss_overlap", "loss_overlap_0"}),
        ("similarity_r50", {"loss_bbox_dn"}),
        ("two_passes_r50", {"loss_bbox_0_first", "loss_distance"}),
    ],
)
def test_the_detectors_of_the_guide_train_and_detect(here, config, further):
    model = build(changed(LazyConfig.load(f"my_detectors/{config}.py").model, dict(SMALL))).train()
    batch = make_batch()
    losses = model(batch)
    assert further <= set(losses)
    require_all_gradients(model, losses)
    with torch.no_grad():
        found = model.eval()(batch)
    assert all(len(image["instances"]) > 0 for image in found)


def test_overlaps_rank_detections(here):
    cfg = changed(LazyConfig.load("my_detectors/overlap_r50.py").model, dict(SMALL))
    model = build(cfg).eval()
    with torch.no_grad():
        before = model(make_batch())[0]["instances"].scores
        for head in model.heads.extra_embed["overlap"]:
            torch.nn.init.constant_(head.bias, -20.0)  # no box is said to fit
        after = model(make_batch())[0]["instances"].scores
    assert before.max() > 10 * after.max()


def test_the_training_of_the_guide_resolves(here):
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


def test_the_bias_of_the_guide_begins_at_zero(here):
    model = build(changed(LazyConfig.load("my_detectors/similarity_r50.py").model, dict(SMALL)))
    assert not model.transformer.decoder.similarity_weight.any()
