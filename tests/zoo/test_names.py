"""The names and shapes in every published checkpoint are those of the model that its entry builds."""

import re

import pytest
import torch

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import instantiate
from detrex_lite.zoo import load_zoo

from ..checkpoint.published_names import checkpoints, state

# Published in addition to the last weights, with the names of the running mean.
AVERAGED = "dino_r50_4scale_12ep_ema"


def published_file(entry):
    """The name of the file in the table of published names: the last part of the address of the file or its folder."""
    address = entry.url or entry.page
    if entry.format == "transformers":
        return address.split("/")[4]  # the repository, whose only file of weights this is
    return re.sub(r"\?.*|/view.*", "", address).rsplit("/", 1)[-1]


def variant_of(entry):
    origin = entry.format if entry.format in ("detrex", "transformers") else "paper"
    key = entry.project, origin, published_file(entry)
    variants = {row.variant for row in checkpoints() if (row.project, row.origin, row.file) == key}
    if len(variants) > 1 and entry.name != AVERAGED:  # a folder with several models
        model = re.sub(r"_(\d+ep|paper|384)\b|_(384|\d+ep)(?=_)", "", entry.name)
        variants = {variant for variant in variants if variant.split("/")[1] == model}
    assert variants, f"{entry.name}: its file is not in the table of published names"
    return sorted(variants)


# Several checkpoints may have the same model and the same names.
CASES = {}
for _entry in load_zoo().values():
    for _variant in variant_of(_entry):
        CASES.setdefault((_variant, _entry.config_file, _entry.overrides), _entry)
FAST = re.compile(
    r"r50|_r101|swin_tiny|convnext_tiny|internimage_tiny|focalnet_large_lrf|vitdet_base|eva_01|eva_02_base|lwdetr|rfdetr"
)


def parameters():
    """One checkpoint of each project, naming and fast backbone runs always; the others are in the slow suite."""
    chosen, seen_kinds = [], set()
    for (variant, *_), entry in CASES.items():
        backbone = FAST.search(entry.name)
        kind = entry.project, entry.format, backbone and backbone[0]
        marks = (pytest.mark.slow,) if backbone is None or kind in seen_kinds else ()
        seen_kinds.add(kind)
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
    # Only weights for training may be missing: the published model has all others.
    assert [name for name in report.missing if not name.startswith(model.training_only)] == []
