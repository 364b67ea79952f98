"""Group DETR: groups of queries for Conditional DETR and for other detectors. Models are small."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.layers import ConditionalSelfAttention
from detrex_lite.projects.group_detr.modeling import DetrexGroupSelfAttention
from detrex_lite.testing import (
    NUM_QUERIES,
    SMALL,
    DetectorContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    parameter_patterns,
    predict,
    require_all_gradients,
    without_dropout,
)
from tests.suites import first_always

from .published import PROJECTS

CONFIGS = PROJECTS / "group_detr" / "configs"
GROUPS = "queries.layout.num_groups"


def small_config(name="group_detr/configs/models/group_detr_r50_paper", **changes):
    return changed(get_config(f"projects/{name}.py").model, {**SMALL, GROUPS: 3, **changes})


def detrex_config(**changes):
    return small_config("group_detr/configs/models/group_detr_r50", **changes)


def dino_config(**changes):
    return small_config("dino/configs/models/dino_r50", **{"denoising.num_pairs": 6, **changes})


class TestGroupDETR(DetectorContract):
    def config(self, **changes):
        return small_config(**changes)


@pytest.mark.slow
class TestDetrexGroupDETR(DetectorContract):
    def config(self, **changes):
        return detrex_config(**changes)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("models/*.py"))), ids=lambda path: path.stem)
def test_every_model_config_builds(path):
    model, _ = build_on_meta(path)
    assert model.queries.embedding.weight.shape == (11 * 300, 256)


def weights_of_group(state, rows, group):
    """The weights of a model with the queries of one group only.

    Args:
        state: the weights of the model with all groups.
        rows: names of the tensors with a row for each query.
        group: the number of the group, from 0.
    """
    chosen = slice(group * NUM_QUERIES, (group + 1) * NUM_QUERIES)
    return {name: value[chosen] if name in rows else value for name, value in state.items()}


RELATION = {"_target_": "detrex_lite.modeling.PositionRelation", "num_heads": 4}
DETECTORS = {
    "conditional_detr": (small_config, {}, ["queries.embedding.weight"]),
    "dab_detr": (small_config, {"name": "dab_detr/configs/models/dab_detr_r50"}, ["queries.boxes.weight"]),
    "dino": (dino_config, {"denoising": None}, ["queries.content.weight"]),
    "dino_with_denoising": (dino_config, {}, ["queries.content.weight"]),
    "dino_with_relation": (
        dino_config,
        {"denoising": None, "transformer.decoder.relation": RELATION},
        ["queries.content.weight"],
    ),
}


@pytest.mark.parametrize("name", first_always(DETECTORS))
def test_groups_do_not_affect_each_other(name, batch):
    config, changes, rows = DETECTORS[name]
    model = build_randomised(without_dropout(config(**changes))).double().train()
    together, state = predict(model, batch, targets=True), model.state_dict()
    for group in range(3):
        single = build(without_dropout(config(**{**changes, GROUPS: 1}))).double().train()
        single.load_state_dict(weights_of_group(state, rows, group))
        alone = predict(single, batch, targets=True)
        for layer in ("", "_0"):
            assert_close(together[layer].logits.chunk(3, dim=1)[group], alone[layer].logits)
            assert_close(together[layer].boxes.chunk(3, dim=1)[group], alone[layer].boxes)


def test_losses_are_the_means_over_groups(batch):
    model = build_randomised(without_dropout(small_config())).double().train()
    together, separate = model(batch), []
    for group in range(3):
        single = build(without_dropout(small_config(**{GROUPS: 1}))).double().train()
        single.load_state_dict(weights_of_group(model.state_dict(), ["queries.embedding.weight"], group))
        separate.append(single(batch))
    for name, loss in together.items():
        assert_close(loss, sum(losses[name] for losses in separate) / 3)


@pytest.mark.parametrize("config", [small_config, detrex_config, dino_config])
def test_evaluation_uses_the_first_group(batch, config):
    model = build_randomised(config()).double().eval()
    single = build(config(**{GROUPS: 1})).double().eval()
    single.load_state_dict(
        weights_of_group(model.state_dict(), ["queries.embedding.weight", "queries.content.weight"], 0)
    )
    with torch.no_grad():
        for actual, expected in zip(model(batch), single(batch), strict=True):
            assert_close(actual["instances"].scores, expected["instances"].scores)
            assert_close(actual["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)


def test_dino_trains_with_groups(batch):
    model = build(dino_config()).train()
    require_all_gradients(model, model(batch))


def test_with_one_group_the_variant_of_detrex_is_that_of_the_paper(batch):
    paper, detrex = (
        build(without_dropout(config(**{GROUPS: 1, "transformer.mask_memory_padding": True}))).double().train()
        for config in (small_config, detrex_config)
    )
    assert parameter_patterns(paper) == parameter_patterns(detrex)
    detrex.load_state_dict(paper.state_dict())
    assert isinstance(detrex.transformer.decoder.layers[0].attentions[0], DetrexGroupSelfAttention)
    assert_close(detrex(batch), paper(batch))


def test_detrex_adds_the_outputs_of_the_groups_in_another_order():
    """The output for query i of group g is added to the query at i * G + g."""
    attention, plain = DetrexGroupSelfAttention(8, 2), ConditionalSelfAttention(8, 2)
    plain.load_state_dict(attention.state_dict())
    query, identity, pos = torch.randn(3, 2, 4 * 5, 8)
    zeros = torch.zeros_like(query)
    outputs = plain(query, identity=zeros, query_pos=pos, key_pos=pos)
    added = attention(query, identity=identity, query_pos=pos, key_pos=pos, num_groups=4) - identity
    for group in range(4):
        for number in range(5):
            assert_close(added[:, number * 4 + group], outputs[:, group * 5 + number])
