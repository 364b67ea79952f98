"""A zoo of small detectors of three projects, whose checkpoints are served locally, and a small COCO 2017."""

import hashlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from detrex_lite.checkpoint import convert_state_dict, downloading
from detrex_lite.config import LazyConfig
from detrex_lite.data import generate_shapes
from detrex_lite.testing import build

from ..checkpoint.file_server import FileServer, file_server

NUM_IMAGES = 4
MODELS = ("detr", "deformable_detr", "dino")
MODEL = """
from detrex_lite.config import get_config

model = get_config("projects/{name}/configs/models/{name}_small.py").model
model.num_classes = 3
model.num_queries = 5
model.transformer.encoder.num_layers = 1
model.transformer.decoder.num_layers = 1
model.backbone.weights = "IMAGENET1K_V1"  # would be downloaded
"""
TRAINING = """
from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.data import load_coco

from .models.detr import model

dataloader = get_config("common/data/coco_detr.py").dataloader
train = get_config("common/train.py").train

dataloader.test.dataset = L(load_coco)(annotations={annotations!r}, image_root={images!r}, name="mine")
train.seed = 1
"""
TABLE = """
from detrex_lite.zoo import Origin

mine = Origin(
    base="{url}/",
    format="detrex_lite",
    licence="CC0-1.0",
    num_classes=3,
    source="https://example.org/models",
    trained_by="nobody",
)
FAST = ("dataloader.test.mapper.augmentation=null", "dataloader.test.num_workers=0", "train.device=cpu")

ENTRIES = (
    mine("small_detr", "detr_1ep", 1, 0.0, "detr.pth", overrides=FAST),
    mine("small_deformable_detr", "models/deformable_detr", 1, None, "deformable_detr.pth", overrides=FAST),
    mine("small_dino", "models/dino", 2, 49.2, "dino.pth", overrides=FAST, sha256="{sha256}", format="detrex"),
    mine("by_hand", "models/detr", None, None, page="https://example.org/drive", overrides=FAST),
    mine("missing", "models/detr", 1, 40.0, "missing.pth", overrides=FAST),
)
"""


@dataclass
class SmallZoo:
    """A folder with a table, its server, and the bytes of its checkpoints."""

    folder: Path
    server: FileServer
    checkpoints: dict[str, bytes]

    @property
    def table(self) -> Path:
        return self.folder / "zoo.py"


def _checkpoint(config: Path, name: str) -> bytes:
    cfg = LazyConfig.load(config).model
    cfg.backbone.weights = None
    state = build(cfg).state_dict()
    if name == "dino":
        weights = {name: value for name, value in state.items() if value.dim()}  # without counters of batch norms
        state = convert_state_dict(weights, "detrex")
    file = io.BytesIO()
    torch.save({"model": state}, file)
    return file.getvalue()


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    """Create the expensive parts once: configs, checkpoints, and images of shapes as a COCO 2017."""
    root = tmp_path_factory.mktemp("templates")
    shapes = generate_shapes(root / "shapes", num_train=1, num_val=NUM_IMAGES, image_size=64, empty_share=0.0)
    (root / "coco" / "annotations").mkdir(parents=True)
    shutil.copy(shapes / "annotations" / "val.json", root / "coco" / "annotations" / "instances_val2017.json")
    shutil.copytree(shapes / "images" / "val", root / "coco" / "val2017")
    models = root / "mine" / "configs" / "models"
    models.mkdir(parents=True)
    for name in MODELS:
        (models / f"{name}.py").write_text(MODEL.format(name=name))
    annotations, images = shapes / "annotations" / "val.json", shapes / "images" / "val"
    training = TRAINING.format(annotations=str(annotations), images=str(images))
    (models.parent / "detr_1ep.py").write_text(training)
    return root, {name: _checkpoint(models / f"{name}.py", name) for name in MODELS}


@pytest.fixture
def small_zoo(templates, tmp_path, monkeypatch):
    """Create the zoo in an empty folder, with an empty cache."""
    root, checkpoints = templates
    monkeypatch.setenv("DETREX_DATASETS", str(root))
    monkeypatch.setenv("DETREX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloading, "WAIT", 0.0)
    shutil.copytree(root / "mine", tmp_path / "mine")
    with file_server() as server:
        for name, content in checkpoints.items():
            server.add(f"{name}.pth", content)
        sha256 = hashlib.sha256(checkpoints["dino"]).hexdigest()[:12]
        (tmp_path / "mine" / "zoo.py").write_text(TABLE.format(url=server.url, sha256=sha256))
        yield SmallZoo(tmp_path / "mine", server, checkpoints)
