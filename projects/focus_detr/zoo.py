"""Published checkpoints of Focus-DETR. Each line: name, config, epochs, published box AP, file."""

import dataclasses

from detrex_lite.zoo import detrex

_BASE = "https://github.com/linxid/Focus-DETR-mindspore/releases/download/Focus-DETR/"
_detrex = detrex("https://github.com/IDEA-Research/detrex/tree/main/projects/focus_detr")
_authors = dataclasses.replace(_detrex, base=_BASE, trained_by="the paper's authors")
_archive = dataclasses.replace(_authors, notes="a zip archive, to be unpacked by hand")

ENTRIES = (
    _archive(
        "focus_detr_r50_4scale_12ep",
        "focus_detr_r50_4scale_12ep",
        12,
        48.8,
        page=f"{_BASE}focus_detr_r50_4scale_12ep.zip",
    ),
    _archive(
        "focus_detr_r50_4scale_24ep",
        "focus_detr_r50_4scale_24ep",
        24,
        50.3,
        page=f"{_BASE}focus_detr_r50_4scale_24ep.zip",
    ),
    _archive(
        "focus_detr_r50_4scale_36ep",
        "focus_detr_r50_4scale_36ep",
        36,
        50.4,
        page=f"{_BASE}focus_detr_r50_4scale_36ep_v3.zip",
    ),
    _archive(
        "focus_detr_r101_4scale_12ep",
        "focus_detr_r101_4scale_12ep",
        12,
        50.8,
        page=f"{_BASE}focus_detr_r101_4scale_12ep.zip",
    ),
    _archive(
        "focus_detr_r101_4scale_24ep",
        "focus_detr_r101_4scale_24ep",
        24,
        51.2,
        page=f"{_BASE}focus_detr_r101_4scale_24ep.zip",
    ),
    _archive(
        "focus_detr_r101_4scale_36ep",
        "focus_detr_r101_4scale_36ep",
        36,
        51.4,
        page=f"{_BASE}focus_detr_r101_4scale_36ep_v2.zip",
    ),
    _archive(
        "focus_detr_swin_tiny_224_4scale_12ep",
        "focus_detr_swin_tiny_224_4scale_12ep",
        12,
        50.0,
        page=f"{_BASE}focus_detr_swin_tiny_224_4scale_12ep.zip",
    ),
    _archive(
        "focus_detr_swin_tiny_224_4scale_24ep",
        "focus_detr_swin_tiny_224_4scale_24ep",
        24,
        51.2,
        page=f"{_BASE}focus_detr_swin_tiny_224_4scale_24ep.zip",
    ),
    _detrex(
        "focus_detr_swin_tiny_224_4scale_36ep",
        "focus_detr_swin_tiny_224_4scale_36ep",
        36,
        52.5,
        "v0.1.1/focus_detr_swin_tiny_224_4scale_12ep.pth",
        notes="detrex's page says 36 epochs, the name of the file 12",
    ),
    _authors(
        "focus_detr_swin_base_384_4scale_36ep",
        "focus_detr_swin_base_384_4scale_36ep",
        36,
        56.2,
        "focus_detr_swin_base_384_4scale_22k_36ep.pth",
    ),
)
