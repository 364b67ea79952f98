"""Predictors of all projects that are small enough to be exported in a test."""

from pathlib import Path

import torch
from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import LazyConfig
from detrex_lite.data import ResizeShortestEdge
from detrex_lite.inference import Predictor
from detrex_lite.modeling import TopKPostprocessor
from detrex_lite.testing import SMALL, changed

ROOT = Path(__file__).parents[2]
_NO_TESTING_SIZE = {"dino_internimage_small", "lwdetr_small", "rfdetr_small"}  # these are published sizes
SMALL_CONFIGS = sorted(
    path
    for size in ("small", "mini")
    for path in ROOT.glob(f"projects/*/configs/models/*_{size}.py")
    if path.stem not in _NO_TESTING_SIZE
)
"""Models that are small as they are; a new one is included automatically."""
_WITH_SMALL = {path.parents[2].name for path in SMALL_CONFIGS}
# Models whose smallest published size is small enough.
_SMALLEST = {"deim": "deim_dfine_n"}
_MODEL_NAMES = {**_SMALLEST, "sqr_detr": "sqr_dab_detr_r50"}
LARGE_CONFIGS = sorted(
    path / f"configs/models/{_MODEL_NAMES.get(path.name, f'{path.name}_r50')}.py"
    for path in ROOT.glob("projects/*")
    if (path / "configs").is_dir() and path.name not in _WITH_SMALL
)
"""One model of each other project, which is reduced here."""
FEW_LAYERS = {"transformer.encoder.num_layers": 1, "transformer.decoder.num_layers": 2}
_LAYER_SHARES = "transformer.encoder.layer_shares"  # Focus-DETR's fractions, one per layer


def small_predictor(path, *, resize=None, **changes) -> Predictor:
    """Create a predictor of a model config, with seeded weights and scores that differ.

    Args:
        path: path of the config. Detectors with masks return only boxes, unless `changes` say otherwise.
        resize: the test transform; by default the short edge becomes 96 pixels.
        changes: changes of the model's config.
    """
    cfg = LazyConfig.load(str(path))
    cfg.model.backbone.weights = None
    if path in LARGE_CONFIGS and path.stem not in _SMALLEST.values():
        changed(cfg.model, dict(SMALL))
    reductions = {key: value for key, value in {**FEW_LAYERS, _LAYER_SHARES: [1.0]}.items() if _has(cfg.model, key)}
    if getattr(cfg.model.postprocessor._target_, "with_masks", False):  # exported files only support boxes
        cfg.model.postprocessor = L(TopKPostprocessor)(num_detections=100)
    changed(cfg.model, reductions | changes)
    resize = L(ResizeShortestEdge)(short_edge_length=96, max_size=160) if resize is None else resize
    cfg.dataloader = dict(test=dict(mapper=dict(augmentation=resize)))
    torch.manual_seed(0)
    predictor = Predictor(cfg, device="cpu", score_threshold=0.0)
    for name, parameter in predictor.model.named_parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.xavier_normal_(parameter)
        if "class_embed" in name and parameter.dim() == 1:
            nn.init.normal_(parameter, -1.0, 1.0)
    return predictor


def _has(cfg, key) -> bool:
    for name in key.split("."):
        if cfg is None or name not in cfg:
            return False
        cfg = cfg[name]
    return True
