"""DAB-Deformable-DETR as a whole. Models are small; their structure is that of the configs."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.layers import get_sine_pos_embed
from detrex_lite.modeling import DecoderState, Memory, TokenLevels
from detrex_lite.structures import ImageBatch
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    SMALL,
    DeformableContract,
    TwoStageContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    has_gradient,
    parameter_patterns,
    predict,
    without_dropout,
)
from tests.suites import first_always

from .published import PROJECTS

CONFIGS = PROJECTS / "dab_deformable_detr" / "configs"

ONE_STAGE = {"as_two_stage": False}
TWO_STAGE = {"as_two_stage": True}
VARIANTS = {
    "one_stage": ONE_STAGE,
    "two_stage": TWO_STAGE,
    "without_refinement": {"as_two_stage": False, "with_box_refine": False},
}


def small_config(**changes):
    cfg = get_config("projects/dab_deformable_detr/configs/models/dab_deformable_detr_r50.py").model
    return changed(cfg, {**SMALL, **changes})


@pytest.mark.parametrize("variant", [ONE_STAGE, TWO_STAGE], ids=["one_stage", "two_stage"])
class TestDabDeformableDETR(DeformableContract):
    def config(self, **changes):
        return small_config(**self.variant, **changes)


class TestTwoStages(TwoStageContract):
    def config(self, **changes):
        return small_config(**TWO_STAGE, **changes)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("**/*.py"))), ids=lambda path: path.stem)
def test_every_config_builds(path):
    model, cfg = build_on_meta(path)
    assert len(model.heads.class_embed) == cfg.transformer.decoder.num_layers + cfg.as_two_stage
    assert len({id(head) for head in model.heads.bbox_embed}) == len(model.heads.bbox_embed)


def test_initial_boxes_cover_the_image_and_contents_are_zero():
    queries = build(small_config(num_queries=1000)).queries
    assert queries.content.weight.shape == (1000, 64)
    assert not queries.content.weight.any()
    boxes, limit = queries.boxes(), torch.tensor(3.0).sigmoid()
    assert_close(boxes.amax(0), limit.expand(4))
    assert_close(boxes.amin(0), 1 - limit.expand(4))
    assert_close(boxes.mean(0), torch.full((4,), 0.5), rtol=0, atol=0.05)


def test_without_refinement_references_of_every_layer_are_the_learned_boxes(batch):
    model = build(small_config(**VARIANTS["without_refinement"])).eval()
    with torch.no_grad():
        model.heads.bbox_embed[0].layers[-1].bias.zero_()  # the shared box heads predict no offsets
        named = predict(model, batch)
    for predictions in named.values():
        assert_close(predictions.boxes, model.queries.boxes().detach().expand(len(batch), -1, -1))


def test_refined_boxes_have_no_gradients_in_box_heads_of_earlier_layers(batch):
    model = build_randomised(small_config()).train()
    predict(model, batch)[""].boxes.square().sum().backward()
    assert [has_gradient(head) for head in model.heads.bbox_embed] == [False, True]


def state_in_a_padded_batch(*, as_published):
    images = ImageBatch.of_padded(torch.zeros(2, 1, 4, 8), [(4, 8), (2, 8)], as_published=as_published)
    memory = Memory(torch.zeros(2, 32, 64), None, None, TokenLevels.from_maps([images]))
    return DecoderState(torch.randn(2, 3, 64), torch.rand(2, 3, 4), [], None, memory)


def test_positions_embed_the_boxes_and_are_scaled_from_the_second_layer_on():
    decoder = build(small_config()).transformer.decoder
    state = state_in_a_padded_batch(as_published=False)
    raw = decoder.ref_point_head(get_sine_pos_embed(state.reference, 32))
    assert_close(decoder.query_position(0, state), raw)
    assert_close(decoder.query_position(1, state), decoder.query_scale(state.query) * raw)


def test_a_batch_as_published_embeds_boxes_relative_to_the_padded_batch():
    decoder = build(small_config()).transformer.decoder
    state = state_in_a_padded_batch(as_published=True)
    in_batch = state.reference * torch.tensor([[[1.0, 1, 1, 1]], [[1, 0.5, 1, 0.5]]])
    assert_close(decoder.query_position(0, state), decoder.ref_point_head(get_sine_pos_embed(in_batch, 32)))


def test_proposals_are_scored_by_their_best_class_and_trained_with_all_classes(batch):
    model = build_randomised(without_dropout(small_config(**TWO_STAGE))).double().train()
    named = predict(model, batch, targets=True)
    assert named["_enc"].logits.shape == (3, NUM_QUERIES, NUM_CLASSES)
    scores = named["_enc"].logits.max(-1).values
    assert_close(scores, scores.sort(dim=1, descending=True).values)
    losses = model(batch)
    for record in batch:
        record["instances"].gt_classes.zero_()
    assert abs(model(batch)["loss_class_enc"] - losses["loss_class_enc"]) > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_names_are_stable(variant):
    model = build(small_config(**VARIANTS[variant]))
    names = {name for name in parameter_patterns(model, ("backbone.", "neck.")) if ".attentions.N." not in name}
    common = {"heads.class_embed.N.*", "heads.bbox_embed.N.layers.N.*", "transformer.level_embeds"}
    common |= {
        f"transformer.{part}.layers.N.{name}.*"
        for part in ("encoder", "decoder")
        for name in ("ffns.N.layers.N", "norms.N")
    }
    common |= {f"transformer.decoder.{name}.layers.N.*" for name in ("ref_point_head", "query_scale")}
    two_stage_names = {f"queries.proposals.enc_output{end}.*" for end in ("", "_norm")}
    assert names == common | (two_stage_names if variant == "two_stage" else {"queries.content.*", "queries.boxes.*"})
