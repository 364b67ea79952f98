"""DN-DETR as a whole. Models are small; their structure is that of the configs."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.modeling import GroupDenoising
from detrex_lite.projects.dab_detr.modeling import DABDETR

from .contract import NUM_CLASSES, SMALL, DenoisingContract, DetectorContract, build, build_lively, changed, predict


def small_config(**changes):
    cfg = get_config("projects/dn_detr/configs/models/dn_detr_r50.py").model
    return changed(cfg, {**SMALL, "in_channels": 512, **changes})


class TestDNDETR(DenoisingContract):
    max_detections = 20

    def config(self, **changes):
        return small_config(**changes)

    def test_training_compiles_to_one_graph_for_batches_of_all_sizes(self, batch):
        super().test_training_compiles_to_one_graph_for_batches_of_all_sizes(batch)  # not slow here, unlike for others

    def test_without_objects_denoising_gives_the_label_embedding_a_gradient_of_zeros(self, monkeypatch):
        # Contents of matching queries are of the label embedding, too, and would teach it.
        monkeypatch.setattr(GroupDenoising, "matching_content", lambda self, queries: torch.zeros(queries, 64))
        super().test_without_objects_denoising_gives_the_label_embedding_a_gradient_of_zeros()


class TestWithoutDenoising(DetectorContract):
    max_detections = 20

    def config(self, **changes):
        return small_config(denoising=None, **changes)


def denoised(model, batch):
    """What becomes of the denoising queries, with the same noise in each call."""
    torch.manual_seed(0)
    with torch.no_grad():
        return predict(model, batch, targets=True)["_dn"]


@pytest.mark.parametrize("ignore_padding", [False, True])
def test_what_is_in_padding_matters_unless_it_is_ignored(batch, ignore_padding):
    model = build_lively(small_config(**{"denoising.ignore_padding": ignore_padding})).double().train()
    denoising, number = model.denoising, []

    def with_other_padding(*args, **kwargs):
        noised = type(denoising).forward(denoising, *args, **kwargs)
        padding = noised.content.abs().sum(-1) == 0
        number.append(int(padding.sum()))
        return noised._replace(content=noised.content.masked_fill(padding[..., None], 3.0))

    before = denoised(model, batch)
    denoising.forward = with_other_padding
    after = denoised(model, batch)
    assert number[0] > 0
    real = before.match
    change = before.logits[real.image, real.query] - after.logits[real.image, real.query]
    assert (change.abs().max() < 1e-10) == ignore_padding


def test_without_denoising_it_is_dab_detr(batch):
    dn = build_lively(small_config(denoising=None)).eval()
    cfg = small_config()
    del cfg.denoising
    cfg._target_ = DABDETR
    dab = build_lively(cfg).eval()
    dab.load_state_dict(dn.state_dict())
    with torch.no_grad():
        assert_close(predict(dn, batch, targets=True)[""].boxes, predict(dab, batch, targets=True)[""].boxes)


def test_denoising_and_patterns_exclude_each_other():
    with pytest.raises(ValueError, match="num_patterns=3: with denoising, the content of all queries is the label"):
        build(small_config(num_patterns=3))
    assert build(small_config(num_patterns=3, denoising=None)).patterns.weight.shape == (3, 64)


def test_the_label_embedding_has_no_object_as_a_class_and_leaves_a_channel_to_the_indicator():
    assert build(small_config()).denoising.label_embedding.weight.shape == (NUM_CLASSES + 1, 63)
