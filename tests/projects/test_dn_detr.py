"""DN-DETR as a whole. Models are small; their structure is that of the configs."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.modeling import Targets
from detrex_lite.projects.dab_detr.modeling import DABDETR

from .contract import NUM_CLASSES, NUM_QUERIES, DetectorContract, build, build_lively, changed, make_input


def small_config(**changes):
    cfg = get_config("projects/dn_detr/configs/models/dn_detr_r50.py").model
    small = {
        "num_classes": NUM_CLASSES,
        "num_queries": NUM_QUERIES,
        "embed_dim": 64,
        "in_channels": 512,
        "backbone.depth": 18,
        "backbone.freeze_at": 0,
        "position_embedding.num_pos_feats": 32,
        "transformer.encoder.num_layers": 2,
        "transformer.encoder.num_heads": 4,
        "transformer.encoder.feedforward_dim": 96,
        "transformer.decoder.num_layers": 2,
        "postprocessor.num_detections": 20,
    }
    return changed(cfg, {**small, **changes})


class TestDNDETR(DetectorContract):
    max_detections = 20

    @pytest.fixture(autouse=True)
    def _suffixes(self):
        self.aux_suffixes = {"_0", "_dn_0"}
        self.other_suffixes = {"_dn"}

    def config(self, **changes):
        return small_config(**changes)

    def test_a_batch_without_objects_teaches_the_label_embedding_nothing_but_gives_it_a_gradient(self):
        model = build(self.config()).train()
        model.denoising.matching_content = lambda queries: model.class_embed.weight.new_zeros(queries, 64)
        losses = model([make_input(32, 32, [], [], seed) for seed in range(2)])
        assert all(loss == 0 for name, loss in losses.items() if "_dn" in name)
        sum(losses.values()).backward()
        assert not model.denoising.label_embedding.weight.grad.any()


class TestWithoutDenoising(DetectorContract):
    max_detections = 20

    def config(self, **changes):
        return small_config(denoising=None, **changes)


def outputs(model, batch, with_targets):
    """What `predict` gives, in training or not."""
    targets = Targets.from_inputs(batch, num_classes=NUM_CLASSES, like=model.pixel_mean) if with_targets else None
    torch.manual_seed(0)
    with torch.no_grad():
        return model.predict(model.preprocess(batch), targets)


def test_matching_queries_do_not_notice_denoising(batch):
    model = build_lively(small_config()).double().train()
    without, together = outputs(model, batch, False), outputs(model, batch, True)
    assert set(together) - set(without) == {"_dn", "_dn_0"}
    for suffix, predictions in without.items():
        assert_close(together[suffix].logits, predictions.logits)
        assert_close(together[suffix].boxes, predictions.boxes)


@pytest.mark.parametrize("ignore_padding", [False, True])
def test_what_is_in_padding_matters_unless_it_is_ignored(batch, ignore_padding):
    model = build_lively(small_config(**{"denoising.ignore_padding": ignore_padding})).double().train()
    denoising, number = model.denoising, []

    def with_other_padding(*args, **kwargs):
        noised = type(denoising).forward(denoising, *args, **kwargs)
        padding = noised.content.abs().sum(-1) == 0
        number.append(int(padding.sum()))
        return noised._replace(content=noised.content.masked_fill(padding[..., None], 3.0))

    before = outputs(model, batch, True)["_dn"]
    denoising.forward = with_other_padding
    after = outputs(model, batch, True)["_dn"]
    assert number[0] > 0
    real = before.match
    change = before.logits[real.image, real.query] - after.logits[real.image, real.query]
    assert (change.abs().max() < 1e-10) == ignore_padding


def test_no_denoising_in_evaluation_even_with_targets(batch):
    model = build(small_config()).eval()
    assert set(outputs(model, batch, True)) == {"", "_0"}


def test_without_denoising_it_is_dab_detr(batch):
    dn = build_lively(small_config(denoising=None)).eval()
    cfg = small_config()
    del cfg.denoising
    cfg._target_ = DABDETR
    dab = build_lively(cfg).eval()
    dab.load_state_dict(dn.state_dict())
    assert_close(outputs(dn, batch, True)[""].boxes, outputs(dab, batch, True)[""].boxes)


def test_denoising_and_patterns_exclude_each_other():
    with pytest.raises(ValueError, match="num_patterns=3: with denoising, the content of all queries is the label"):
        build(small_config(num_patterns=3))
    assert build(small_config(num_patterns=3, denoising=None)).patterns.weight.shape == (3, 64)


def test_the_noise_is_a_key_of_the_config():
    model = build(small_config(**{"denoising.label_noise_prob": 0.0, "denoising.box_noise_scale": 0.1}))
    assert (model.denoising.label_noise_prob, model.denoising.box_noise_scale) == (0.0, 0.1)
    assert model.denoising.label_embedding.weight.shape == (NUM_CLASSES + 1, 63)
