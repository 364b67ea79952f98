"""Checkpoints of every format are downloaded, recognised and loaded."""

import io

import pytest
import torch
from safetensors.torch import save
from torch.testing import assert_close

from detrex_lite.checkpoint import KEY_MAPS, convert_state_dict, load_checkpoint
from detrex_lite.config import LazyConfig
from detrex_lite.testing import SMALL, build, changed
from detrex_lite.zoo import ZooEntry, obtain
from tests.suites import first_of_each

from ..checkpoint.file_server import file_server

# detector -> the formats that support it
FORMATS = {
    "detr": ("detrex_lite", "detrex", "detr", "transformers", "mmdetection"),
    "conditional_detr": ("conditional_detr", "transformers", "mmdetection"),
    "dab_detr": ("detrex", "dab_detr", "transformers", "mmdetection"),
    "anchor_detr": ("detrex", "anchor_detr"),
    "deformable_detr": ("detrex", "deformable_detr", "transformers", "mmdetection"),
    "dino": ("detrex_lite", "detrex", "dino", "mmdetection"),
    "relation_detr": ("relation_detr",),
    "rtdetr": ("rtdetr", "rtdetrv2"),
    "dfine": ("dfine",),
    "lwdetr": ("lwdetr",),
    "rfdetr": ("rfdetr",),
    "maskdino": ("maskdino",),
}
# Projects with a small model; the models of other projects are reduced.
SMALL_MODELS = {
    "rtdetr": "rtdetrv2_small",
    "dfine": "dfine_small",
    "lwdetr": "lwdetr_mini",
    "rfdetr": "rfdetr_mini",
    "maskdino": "maskdino_small",
}
CASES = [(project, name) for project, names in FORMATS.items() for name in names]


def test_all_formats_of_detectors_are_tested():
    backbones = {"torchvision", "detectron2", "presnet", "hgnetv2", "cae", "dinov2"}
    assert {name for _, name in CASES} == {key_map.name for key_map in KEY_MAPS} - backbones


def small_model(project, seed):
    if project in SMALL_MODELS:
        return build(LazyConfig.load(f"projects/{project}/configs/models/{SMALL_MODELS[project]}.py").model, seed=seed)
    cfg = LazyConfig.load(f"projects/{project}/configs/models/{project}_r50.py").model
    bias = {"neck.bias": False} if "neck" in cfg else {}  # the necks of mmdetection have no bias
    return build(changed(cfg, {**SMALL, **bias}), seed=seed)


def file_of(state, format):
    """The bytes and the suffix of a file as the programs of a format write it."""
    stored = convert_state_dict(state, format)
    if format == "transformers":
        return save(
            {name: value.clone().contiguous() for name, value in stored.items()}, {"format": "pt"}
        ), ".safetensors"
    file = io.BytesIO()
    entry = next(key_map.entry for key_map in KEY_MAPS if key_map.name == format)
    torch.save({entry: stored, "epoch": 12} if entry else stored, file)
    return file.getvalue(), ".pth"


@pytest.mark.parametrize(("project", "format"), first_of_each(CASES, lambda case: case[0]))
def test_a_checkpoint_is_downloaded_recognised_and_loaded(project, format, tmp_path, monkeypatch):
    monkeypatch.setenv("DETREX_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    trained, model = small_model(project, seed=1), small_model(project, seed=2)
    content, suffix = file_of(trained.state_dict(), format)
    with file_server() as server:
        server.add(f"model{suffix}", content)
        entry = ZooEntry(
            name="small",
            config="model.py",
            url=f"{server.url}/model{suffix}",
            format=format,
            num_classes=model.num_classes,
            epochs=1,
            box_ap=None,
            trained_by="nobody",
            licence="CC0-1.0",
            source="https://example.org/models",
        )
        report = load_checkpoint(model, obtain(entry).path)
    assert report.key_map == format
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    for name, value in trained.state_dict().items():
        assert_close(model.state_dict()[name], value, rtol=0, atol=0)
