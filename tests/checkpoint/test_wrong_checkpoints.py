"""Checkpoints of other models: the error names the fault and the remedy."""

import functools

import pytest
import torch

from detrex_lite.checkpoint import CheckpointError, load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.testing import SMALL, build, changed

TWO_STAGE = {"with_box_refine": True, "as_two_stage": True}


def small(project, **changes):
    cfg = get_config(f"projects/{project}/configs/models/{project}_r50.py").model
    return build(changed(cfg, {**SMALL, **changes}))


@functools.cache
def weights_of(project, **changes):
    return small(project, **changes).state_dict()


# trained detector, detector to load into, its changes, a tensor that only one of them has
PAIRS = [
    ("dino", "deformable_detr", TWO_STAGE, "queries.pos_trans"),
    ("dab_detr", "detr", {}, "queries.embedding"),
    ("detr", "conditional_detr", {}, "transformer.decoder.layers.0.attentions.0.query_content_proj"),
    ("deformable_detr", "dab_deformable_detr", {}, "queries.boxes"),
    ("dab_deformable_detr", "dino", {}, "queries.proposals"),
    ("dino", "relation_detr", {}, "transformer.encoder (6 tensors)"),
]


@pytest.mark.parametrize(("trained", "project", "changes", "missing"), PAIRS)
def test_weights_of_another_detector_raise_an_error_in_fine_tuning_and_evaluation(trained, project, changes, missing):
    model = small(project, **changes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as info:
        load_checkpoint(model, weights_of(trained), fine_tune=True)
    assert "would keep their initial values" in str(info.value)
    assert "train.init_new_parts" in str(info.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(CheckpointError) as info:
        load_checkpoint(model, weights_of(trained)).require_complete("model.pth")
    assert missing in str(info.value) or "another shape" in str(info.value)


def test_weights_that_the_model_would_not_use_raise_an_error_in_evaluation():
    relation = {"_target_": "detrex_lite.modeling.PositionRelation", "num_heads": 4}
    trained = small("dino", **{"transformer.decoder.relation": relation}).state_dict()
    report = load_checkpoint(small("dino"), trained)
    with pytest.raises(CheckpointError, match=r"does not have: transformer\.decoder\.relation"):
        report.require_complete("model.pth")


def test_weights_for_training_only_may_be_missing_or_unused():
    without = small("dino", denoising=None)
    load_checkpoint(without, weights_of("dino")).require_complete("model.pth")
    load_checkpoint(small("dino"), without.state_dict()).require_complete("model.pth")
    # The matching queries of DN-DETR are a row of the label embedding.
    incomplete = {name: value for name, value in weights_of("dn_detr").items() if not name.startswith("denoising.")}
    with pytest.raises(CheckpointError, match=r"denoising\.label_embedding\.weight"):
        load_checkpoint(small("dn_detr"), incomplete).require_complete("model.pth")


@pytest.mark.parametrize("project", ["detr", "dino"])
def test_half_a_checkpoint_raises_an_error(project):
    half = dict(list(weights_of(project).items())[::2])
    with pytest.raises(CheckpointError, match="would keep their initial values"):
        load_checkpoint(small(project), half, fine_tune=True)
    with pytest.raises(CheckpointError, match=r"lacks \d+ of the model's tensors"):
        load_checkpoint(small(project), half).require_complete("model.pth")


@pytest.mark.parametrize("project", ["detr", "dn_detr", "dino", "h_deformable_detr"])
def test_another_number_of_classes_is_reported_and_fine_tuned(project):
    trained = small(project, num_classes=9)
    model = small(project, num_classes=4)
    with pytest.raises(CheckpointError) as info:
        load_checkpoint(model, trained.state_dict())
    rows = (10, 5) if project == "detr" else (9, 4)
    assert f"class heads have {rows[0]} rows, the model's {rows[1]}: see model.num_classes" in str(info.value)
    assert "fine_tune=True" in str(info.value)
    report = load_checkpoint(model, trained.state_dict(), fine_tune=True)
    assert not report.missing
    changed_parts = {mismatch.name.split(".")[0] for mismatch in report.mismatched}
    assert changed_parts == ({"heads", "denoising"} if project in ("dn_detr", "dino") else {"heads"})


def test_another_number_of_queries_is_reported_and_fine_tuned():
    trained = small("detr", num_queries=9)
    model = small("detr", num_queries=5)
    with pytest.raises(CheckpointError, match="queries are 9 rows, the model's 5: .*model.num_queries"):
        load_checkpoint(model, trained.state_dict())
    report = load_checkpoint(model, trained.state_dict(), fine_tune=True)
    assert [mismatch.name for mismatch in report.mismatched] == ["queries.embedding.weight"]
