"""H-Deformable DETR, a config of Deformable DETR, and its one-to-many branch in other detectors. Models are small."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.modeling import Targets
from detrex_lite.testing import (
    NUM_QUERIES,
    SMALL,
    DeformableContract,
    TwoStageContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    predict,
    require_all_gradients,
    without_dropout,
)
from tests.suites import first_always

from .published import PROJECTS

CONFIGS = PROJECTS / "h_deformable_detr" / "configs"
ONE2MANY = 3 * NUM_QUERIES


def small_config(name="h_deformable_detr/configs/models/h_deformable_detr_r50", **changes):
    return changed(get_config(f"projects/{name}.py").model, {**SMALL, "num_queries_one2many": ONE2MANY, **changes})


class TestHDeformableDETR(DeformableContract):
    aux_suffixes = frozenset({"_0", "_0_one2many"})
    other_suffixes = frozenset({"_one2many", "_enc"})

    def config(self, **changes):
        return small_config(**changes)


class TestTwoStages(TwoStageContract):
    def config(self, **changes):
        return small_config(**changes)

    def test_two_stages_need_refinement(self):
        with pytest.raises(ValueError, match="with_box_refine=True"):  # look_forward_twice needs it, too
            build(self.config(with_box_refine=False))


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("models/*.py"))), ids=lambda path: path.stem)
def test_every_model_config_builds(path):
    model, _ = build_on_meta(path)
    assert model.queries.embedding.weight.shape == (1800, 256)


def without_the_branch(model, config):
    """The same detector without one-to-many queries."""
    single = build(config)
    shapes = {name: value.shape for name, value in single.state_dict().items()}
    single.load_state_dict({name: value[: shapes[name][0]] for name, value in model.state_dict().items()})
    return single.to(next(model.parameters()).dtype)


DETECTORS = {
    "h_deformable_detr": {},
    "one_stage": {"as_two_stage": False},
    "dab_deformable_detr": {"name": "dab_deformable_detr/configs/models/dab_deformable_detr_r50"},
    "dino": {"name": "dino/configs/models/dino_r50", "denoising.num_pairs": 6},
}


@pytest.mark.parametrize("name", first_always(DETECTORS))
def test_the_branch_does_not_change_the_matching_predictions(name, batch):
    changes = DETECTORS[name]
    model = build_randomised(without_dropout(small_config(**changes))).double().train()
    single = without_the_branch(model, without_dropout(small_config(**{**changes, "num_queries_one2many": 0}))).train()
    named = []
    for detector in (model, single):
        torch.manual_seed(0)  # the same noise
        named.append(predict(detector, batch, targets=True))
    assert set(named[0]) - set(named[1]) == {"_one2many", "_0_one2many"}
    for suffix, expected in named[1].items():
        assert_close(named[0][suffix].logits, expected.logits)
        assert_close(named[0][suffix].boxes, expected.boxes)
    assert named[0]["_one2many"].logits.shape[1] == ONE2MANY


def test_the_branch_is_for_training_only(batch):
    model = build_randomised(small_config()).double()
    single = without_the_branch(model, small_config(num_queries_one2many=0)).eval()
    with torch.no_grad():
        for actual, expected in zip(model.eval()(batch), single(batch), strict=True):
            assert_close(actual["instances"].scores, expected["instances"].scores)


def test_the_branch_matches_every_object_several_times(batch):
    model = build_randomised(small_config(**{"queries.layout.one2many_repeats": 4})).train()
    images = model.preprocess(batch, as_published=True)
    targets = Targets.from_inputs(batch, num_classes=model.num_classes, like=images.tensor)
    matches = model.criterion.match(model.predict(images, targets), targets)
    assert matches[""].image.tolist() == [0, 0, 2]
    assert matches["_one2many"].image.tolist() == 8 * [0] + 4 * [2]
    assert len(set(zip(matches["_one2many"].image.tolist(), matches["_one2many"].query.tolist(), strict=True))) == 12


def test_losses_of_the_branch_are_weighted(batch):
    full, half = (
        build_randomised(without_dropout(small_config(**{"queries.layout.one2many_weight": weight})))
        .double()
        .train()(batch)
        for weight in (1.0, 0.5)
    )
    for name, loss in full.items():
        assert_close(half[name], loss * (0.5 if name.endswith("one2many") else 1.0))


def test_dino_trains_with_the_branch(batch):
    model = build(small_config(**DETECTORS["dino"])).train()
    require_all_gradients(model, model(batch))
