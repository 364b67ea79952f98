"""DN-DETR as a whole. Models are small; their structure is that of the configs."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.projects.dab_detr.modeling import DABDETR
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    SMALL,
    DenoisingContract,
    DetectorContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    parameter_patterns,
    predict,
)
from tests.suites import first_always

from .published import PROJECTS

CONFIGS = PROJECTS / "dn_detr" / "configs"


def small_config(**changes):
    cfg = get_config("projects/dn_detr/configs/models/dn_detr_r50.py").model
    return changed(cfg, {**SMALL, **changes})


class TestDNDETR(DenoisingContract):
    def config(self, **changes):
        return small_config(**changes)


@pytest.mark.slow
class TestWithoutDenoising(DetectorContract):
    def config(self, **changes):
        return small_config(denoising=None, **changes)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("models/*.py"))), ids=lambda path: path.stem)
def test_every_model_config_builds(path):
    model, cfg = build_on_meta(path)
    assert (model.denoising.num_groups, model.denoising.padding_in_loss) == (5, False)
    assert model.denoising.label_embedding.weight.shape == (cfg.num_classes + 1, cfg.embed_dim - 1)


def denoised_predictions(model, batch):
    """The predictions of the denoising queries, with the same noise in each call."""
    torch.manual_seed(0)
    with torch.no_grad():
        return predict(model, batch, targets=True)["_dn"]


@pytest.mark.parametrize("mask_padding", [False, True])
def test_contents_of_padding_have_an_effect_unless_padding_is_masked(batch, mask_padding):
    model = build_randomised(small_config(**{"denoising.mask_padding": mask_padding})).double().eval()
    padded = []

    def with_other_padding(module, args, block):
        padding = block.content.abs().sum(-1) == 0
        padded.append(int(padding.sum()))
        return replace(block, content=block.content.masked_fill(padding[..., None], 3.0))

    before = denoised_predictions(model, batch)
    model.denoising.register_forward_hook(with_other_padding)
    after = denoised_predictions(model, batch)
    assert padded[0] == 5 * (2 + 1)
    real = before.match
    change = before.logits[real.image, real.query] - after.logits[real.image, real.query]
    assert (change.abs().max() < 1e-10) == mask_padding


@pytest.mark.parametrize("padding_in_loss", [False, True])
def test_padding_is_in_the_class_loss_only_if_configured(batch, padding_in_loss):
    model = build_randomised(small_config(**{"denoising.padding_in_loss": padding_in_loss})).double().train()
    named = denoised_predictions(model, batch)
    padding = torch.zeros(named.logits.shape[:2], dtype=torch.bool)
    padding[1], padding[2, 1::2] = True, True  # two slots of five groups, for images with 2, 0 and 1 objects
    weight = torch.ones_like(padding) if named.query_weight is None else named.query_weight > 0
    assert_close(weight, torch.ones_like(padding) if padding_in_loss else ~padding)


def test_without_denoising_dn_detr_is_dab_detr(batch):
    dn = build_randomised(small_config(denoising=None)).eval()
    cfg = small_config()
    del cfg.denoising
    cfg._target_ = DABDETR
    dab = build_randomised(cfg).eval()
    dab.load_state_dict(dn.state_dict())
    with torch.no_grad():
        assert_close(predict(dn, batch, targets=True)[""].boxes, predict(dab, batch, targets=True)[""].boxes)


def test_contents_of_matching_queries_are_the_label_no_object(batch):
    model, decoder_inputs = build_randomised(small_config()), []
    model.transformer.decoder.register_forward_pre_hook(lambda module, args: decoder_inputs.append(args[0]))
    predict(model.eval(), batch)
    no_object = torch.cat([model.denoising.label_embedding.weight[-1], torch.zeros(1)])
    assert_close(decoder_inputs[0].content, no_object.expand_as(decoder_inputs[0].content))


def test_patterns_are_added_only_to_the_label_of_matching_queries(batch):
    model, decoder_inputs = build_randomised(small_config(num_patterns=3)), []
    model.transformer.decoder.register_forward_pre_hook(lambda module, args: decoder_inputs.append(args[0].blocks))
    denoised_predictions(model.train(), batch)
    noised, matching = decoder_inputs[0]
    no_object = torch.cat([model.denoising.label_embedding.weight[-1], torch.zeros(1)])
    contents = matching.content.unflatten(1, (3, NUM_QUERIES))
    assert_close(contents, (no_object + model.queries.patterns.weight)[:, None].expand_as(contents))
    assert (noised.size, matching.size) == (5 * 2, 3 * NUM_QUERIES)
    assert set(noised.content[..., -1].unique().tolist()) == {0.0, 1.0}  # padding has 0, objects have 1
    predict(model.eval(), batch)
    (matching,) = decoder_inputs[1]
    assert matching.size == 3 * NUM_QUERIES


def test_the_label_embedding_has_a_row_for_no_object_and_one_channel_less():
    assert build(small_config()).denoising.label_embedding.weight.shape == (NUM_CLASSES + 1, 63)


def test_only_the_label_embedding_is_added_to_dab_detr():
    dab = changed(get_config("projects/dab_detr/configs/models/dab_detr_r50.py").model, SMALL)
    added = parameter_patterns(build(small_config())) - parameter_patterns(build(dab))
    assert added == {"denoising.label_embedding.*"}
