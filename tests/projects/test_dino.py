"""DINO as a whole. Models are small; their structure is that of the configs."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.modeling import GroupDenoising
from detrex_lite.testing import (
    NUM_CLASSES,
    SMALL,
    DeformableContract,
    DenoisingContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    loss_names,
    make_input,
    parameter_patterns,
    predict,
    require_all_gradients,
    without_dropout,
)
from tests.suites import first_always

from .published import PROJECTS, under_detrex_names

CONFIGS = PROJECTS / "dino" / "configs"

NO_DENOISING = {"denoising": None}
LAYERS = {"", "_0"}
DENOISED_LAYERS = {"_dn", "_dn_0"}

# The ablations of the paper: the change of the config, and the suffixes of the remaining losses.
ABLATIONS = {
    "no look forward twice": ({"heads.look_forward_twice": False}, {*LAYERS, *DENOISED_LAYERS, "_enc"}),
    "no mixed selection": ({"queries.mixed_selection": False}, {*LAYERS, *DENOISED_LAYERS, "_enc"}),
    "no selection": ({"as_two_stage": False}, {*LAYERS, *DENOISED_LAYERS}),
    "no denoising": (NO_DENOISING, {*LAYERS, "_enc"}),
    "no negatives": ({"denoising.with_negatives": False}, {*LAYERS, *DENOISED_LAYERS, "_enc"}),
    "denoising of DN-DETR": (
        {"denoising": get_config("common/denoising.py").group_denoising},
        {*LAYERS, *DENOISED_LAYERS, "_enc"},
    ),
}


def small_config(**changes):
    cfg = get_config("projects/dino/configs/models/dino_r50.py").model
    return changed(cfg, {**SMALL, "denoising.num_pairs": 6, **changes})


class TestDINO(DenoisingContract, DeformableContract):
    num_groups = 3  # six pairs, and at most two objects in an image
    other_suffixes = frozenset({"_enc", "_dn"})

    def config(self, **changes):
        return small_config(**changes)


RESNET_50_AND_101 = [path for path in sorted(CONFIGS.glob("**/dino_r[0-9]*.py")) if "custom" not in path.stem]


@pytest.mark.parametrize("path", first_always(RESNET_50_AND_101), ids=lambda path: path.stem)
def test_every_config_builds(path):
    model, cfg = build_on_meta(path)
    assert len(model.heads.class_embed) == cfg.transformer.decoder.num_layers + 1
    assert len(model.neck.convs) + len(model.neck.extra_convs) == cfg.transformer.num_feature_levels
    assert model.queries.content.weight.shape == (900, 256)
    assert model.denoising.padding_in_loss


def test_the_small_models_build():
    for path in CONFIGS.glob("**/dino_small*.py"):
        if path.stem.endswith("_folder"):  # needs a folder; tested in tests/engine/test_for_folder.py
            continue
        _, cfg = build_on_meta(path)
        assert (cfg.backbone.depth, cfg.embed_dim, cfg.transformer.num_feature_levels) == (18, 128, 3)


def test_a_model_with_five_levels_trains(batch):
    five_levels = {
        "backbone.out_features": ["res2", "res3", "res4", "res5"],
        "transformer.num_feature_levels": 5,
    }
    losses = build(small_config(**five_levels)).train()(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("name", first_always(ABLATIONS, 2))
def test_ablations_of_the_paper_are_changes_of_the_config(name, batch):
    changes, suffixes = ABLATIONS[name]
    model = build(small_config(**changes)).train()
    losses = model(batch)
    assert set(losses) == loss_names(suffixes)
    require_all_gradients(model, losses)
    with torch.no_grad():
        assert len(model.eval()(batch)) == len(batch)


def box_heads_with_gradients(cfg, inputs, suffix):
    """Whether the boxes of one set have gradients in the box head of each layer, and of the encoder, which is last."""
    model = build_randomised(cfg).train()
    predict(model, inputs, targets=True)[suffix].boxes.square().sum().backward()
    gradients = [head.layers[-1].weight.grad for head in model.heads.bbox_embed]
    return [gradient is not None and bool(gradient.any()) for gradient in gradients]


def test_boxes_have_gradients_in_their_layer_and_in_the_one_before(batch):
    twice = small_config(**{"transformer.decoder.num_layers": 3})
    assert box_heads_with_gradients(twice, batch, "") == [False, True, True, False]
    assert box_heads_with_gradients(twice, batch, "_1") == [True, True, False, False]
    assert box_heads_with_gradients(twice, batch, "_0") == [True, False, False, False]
    once = changed(twice, {"heads.look_forward_twice": False})
    assert box_heads_with_gradients(once, batch, "") == [False, False, True, False]
    assert box_heads_with_gradients(once, batch, "_1") == [False, True, False, False]


def test_looking_forward_twice_changes_gradients_only(batch):
    twice, once = (
        build_randomised(small_config(**{"heads.look_forward_twice": switch})).double().eval()
        for switch in (True, False)
    )
    with torch.no_grad():
        for actual, expected in zip(predict(twice, batch).values(), predict(once, batch).values(), strict=True):
            assert_close(actual.boxes, expected.boxes, rtol=0, atol=0)


def test_looking_forward_twice_needs_refinement():
    with pytest.raises(ValueError, match=r"look_forward_twice=True.*with_box_refine=True"):
        build(small_config(with_box_refine=False))


def test_deformable_detr_can_look_forward_twice(batch):
    cfg = get_config("projects/deformable_detr/configs/models/deformable_detr_small.py").model
    cfg.num_classes = NUM_CLASSES
    assert box_heads_with_gradients(cfg, batch, "") == [False, False, True, False]
    cfg.heads.look_forward_twice = True
    assert box_heads_with_gradients(cfg, batch, "") == [False, True, True, False]


def queries_and_predictions(model, inputs):
    """The queries that the decoder gets, and the sets of predictions."""
    decoder_inputs = []
    model.transformer.decoder.register_forward_pre_hook(lambda module, args: decoder_inputs.append(args[0]))
    named = predict(model, inputs, targets=True)
    return decoder_inputs[0], named


def test_contents_are_learned_by_rank_and_references_come_from_proposals(batch):
    model = build_randomised(small_config(**NO_DENOISING)).train()
    queries, named = queries_and_predictions(model, batch)
    assert_close(queries.content, model.queries.content.weight.expand(len(batch), -1, -1))
    assert_close(queries.reference, named["_enc"].boxes)
    assert not queries.reference.requires_grad


def test_without_mixed_selection_contents_come_from_proposals(batch):
    model = build_randomised(small_config(**NO_DENOISING, **{"queries.mixed_selection": False})).train()
    queries, named = queries_and_predictions(model, batch)
    assert not queries.content.requires_grad
    assert_close(model.heads.class_embed[-1](queries.content), named["_enc"].logits)
    assert "queries.content.weight" not in model.state_dict()


def test_evaluation_is_the_same_without_denoising(batch):
    model = build_randomised(small_config()).eval()
    with torch.no_grad():
        assert set(predict(model, batch)) == LAYERS
        detections = model(batch)
        model.denoising = None
        for actual, expected in zip(detections, model(batch), strict=True):
            assert_close(actual["instances"].scores, expected["instances"].scores, rtol=0, atol=0)


def test_small_images_with_denoising_have_no_more_queries_than_tokens():
    model = build_randomised(small_config()).train()
    named = predict(model, [make_input(8, 8, [[1.0, 1, 6, 6]], [3])], targets=True)
    assert named[""].logits.shape == (1, 4, NUM_CLASSES)  # four levels of one cell
    assert named["_dn"].logits.shape == (1, 12, NUM_CLASSES)


def test_group_denoising_can_replace_contrastive_denoising(batch):
    """Its queries have an indicator as their last channel, so `queries.indicator` adds one to matching queries."""
    changes = {**ABLATIONS["denoising of DN-DETR"][0], "queries.indicator": True}
    model = build_randomised(without_dropout(small_config(**changes))).train()
    assert isinstance(model.denoising, GroupDenoising)
    queries, named = queries_and_predictions(model, batch)
    number = named["_dn"].logits.shape[1]
    assert number == 5 * 2
    assert not queries.content[:, number:, -1].any()


def test_parameter_names_are_stable():
    names = parameter_patterns(build(small_config()), ("backbone.", "neck."))
    names = {name for name in names if ".attentions.N." not in name}
    layers = {
        f"transformer.{part}.layers.N.{name}.*"
        for part in ("encoder", "decoder")
        for name in ("ffns.N.layers.N", "norms.N")
    }
    assert names == layers | {
        "heads.class_embed.N.*",
        "heads.bbox_embed.N.layers.N.*",
        "heads.norm.*",
        "denoising.label_embedding.*",
        "transformer.level_embeds",
        "queries.content.*",
        "transformer.decoder.ref_point_head.layers.N.*",
        "queries.proposals.enc_output.*",
        "queries.proposals.enc_output_norm.*",
    }


def test_detrex_checkpoints_load():
    state = under_detrex_names(build(small_config()).state_dict(), label_embedding="label_enc.")
    report = load_checkpoint(build(small_config(), seed=1), state)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
