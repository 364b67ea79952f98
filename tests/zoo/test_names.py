"""The weights of every published checkpoint, by name and shape, are those of the model that its entry builds."""

import re

import pytest
import torch

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import instantiate
from detrex_lite.zoo import load_zoo

from ..checkpoint.published_names import checkpoints, state

# Published beside the last weights, with the names of the running mean.
AVERAGED = "dino_r50_4scale_12ep_ema"


def published_in(entry):
    """What the table of published names calls the file: the last part of its address, of a model or of a folder."""
    address = entry.url or entry.page
    if entry.format == "transformers":
        return address.split("/")[4]  # the repository, of which it is the only file of weights
    return re.sub(r"\?.*|/view.*", "", address).rsplit("/", 1)[-1]


def variant_of(entry):
    origin = entry.format if entry.format in ("detrex", "transformers") else "paper"
    where = entry.project, origin, published_in(entry)
    variants = {one.variant for one in checkpoints() if (one.project, one.origin, one.file) == where}
    if len(variants) > 1 and entry.name != AVERAGED:  # a folder with several models
        model = re.sub(r"_(\d+ep|paper|384)\b|_(384|\d+ep)(?=_)", "", entry.name)
        variants = {variant for variant in variants if variant.split("/")[1] == model}
    assert variants, f"{entry.name}: its file is not in the table of published names"
    return sorted(variants)


# Several checkpoints are of one model and one state.
CASES = {}
for _entry in load_zoo().values():
    for _variant in variant_of(_entry):
        CASES.setdefault((_variant, _entry.config_file, _entry.overrides), _entry)
FAST = re.compile(
    r"r50|_r101|swin_tiny|convnext_tiny|internimage_tiny|focalnet_large_lrf|vitdet_base|eva_01|eva_02_base|lwdetr|rfdetr"
)


def parameters():
    """Always one checkpoint of each project, naming and fast backbone; the others in the slow suite."""
    chosen, seen = [], set()
    for (variant, *_), entry in CASES.items():
        backbone = FAST.search(entry.name)
        kind = entry.project, entry.format, backbone and backbone[0]
        marks = (pytest.mark.slow,) if backbone is None or kind in seen else ()
        seen.add(kind)
        chosen.append(pytest.param(variant, entry, id=f"{entry.name}-{variant.split('/')[0]}", marks=marks))
    return chosen


@pytest.mark.parametrize(("variant", "entry"), parameters())
def test_a_published_checkpoint_loads_completely(variant, entry):
    cfg = entry.load_config()
    with torch.device("meta"):
        model = instantiate(cfg.model)
    report = load_checkpoint(model, state(variant, device="cpu"))
    assert report.key_map == entry.format
    report.require_complete(entry.name)
    assert report.mismatched == []
    # Nothing is missing that the file's own model had: the running mean of Deformable DETR's, say, has no other gaps.
    assert [name for name in report.missing if not name.startswith(model.training_only)] == []
