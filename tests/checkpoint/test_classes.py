"""Fine-tuning keeps the rows of classes that the checkpoint and the model have under the same name."""

import copy
import logging

import pytest
import torch
from omegaconf import OmegaConf

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.checkpoint.classes import ClassRows, class_names_of
from detrex_lite.checkpoint.key_maps import COCO_IDS
from detrex_lite.coco_classes import COCO_CLASSES
from detrex_lite.config import get_config
from detrex_lite.engine.build import load_initial_weights
from detrex_lite.testing import SMALL, build_randomised, changed

from .models import TO_DETR, Detector, random_state, renamed

OLD = ("cat", "dog", "tea-pot", "person")


@pytest.mark.parametrize(
    ("names", "stored_names", "sources"),
    [
        (("dog", "cat"), ("cat", "dog"), (1, 0)),
        (("dog", "cow"), ("cat", "dog"), (1, None)),
        (("Tea pot", "CAT"), ("cat", "tea_pot"), (1, 0)),
        (("Cat", "cat"), ("cat",), (None, 0)),
        (("Cat", "CAT"), ("cat",), (None, None)),
        (("a-b",), ("a_b", "a b"), (None,)),
    ],
)
def test_class_rows_are_matched_by_name(names, stored_names, sources):
    assert ClassRows.of(names, stored_names).sources == sources


def rows_of(model):
    """The tensors of a model that have a row for each class, by name."""
    state = model.state_dict()
    return {name: state[name] for name in state if "class_embed" in name or "label_embedding" in name}


@pytest.fixture(scope="module")
def dino():
    """A function that builds a small DINO, or another detector, with a number of classes."""

    def build(num_classes, name="dino/configs/models/dino_r50.py", **changes):
        config = get_config(f"projects/{name}").model
        return build_randomised(changed(config, {**SMALL, "num_classes": num_classes, **changes}))

    return build


def test_rows_are_arranged_by_class_name(dino):
    trained, model = dino(4), dino(3)
    torch.manual_seed(1)
    before = copy.deepcopy(rows_of(model))
    stored = {"model": {name: torch.randn_like(value) for name, value in trained.state_dict().items()}}
    stored["class_names"] = list(OLD)
    report = load_checkpoint(model, stored, fine_tune=True, class_names=("person", "cow", "Cat"))
    assert (report.missing, report.mismatched) == ([], [])
    assert set(report.arranged) == {name for name, value in before.items() if len(value) in (3, 4)}
    assert "denoising.label_embedding.weight" in report.arranged
    for name, value in rows_of(model).items():
        old = stored["model"][name]
        torch.testing.assert_close(value[[0, 2]], old[[3, 0]], rtol=0, atol=0)
        torch.testing.assert_close(value[1], before[name][1], rtol=0, atol=0)
        torch.testing.assert_close(value[3:], old[4:], rtol=0, atol=0)  # the row of "no object", if there is one
    assert "kept by name: 2 (person, Cat); begin anew: 1 (cow); not in the model: 2 (dog, tea-pot)" in report.summary()


def test_rows_of_permuted_classes_are_reordered(dino):
    trained, model = dino(3), dino(3)
    stored = {"model": trained.state_dict(), "class_names": ["a", "b", "c"]}
    load_checkpoint(model, stored, fine_tune=True, class_names=("c", "a", "b"))
    for name, value in rows_of(model).items():
        torch.testing.assert_close(value[:3], rows_of(trained)[name][[2, 0, 1]], rtol=0, atol=0)
    report = load_checkpoint(model, stored, fine_tune=True, class_names=("a", "b", "c"))
    assert report.rows is None
    torch.testing.assert_close(rows_of(model), rows_of(trained), rtol=0, atol=0)


def test_the_objectness_score_of_the_encoder_stays_in_the_first_row(dino):
    name = "deformable_detr/configs/models/deformable_detr_r50.py"
    two_stages = {"as_two_stage": True, "with_box_refine": True}
    trained, model = dino(4, name, **two_stages), dino(3, name, **two_stages)
    stored = {"model": trained.state_dict(), "class_names": list(OLD)}
    load_checkpoint(model, stored, fine_tune=True, class_names=("person", "cow", "cat"))
    layer_head, encoder_head = model.heads.class_embed[0], model.heads.class_embed[-1]
    trained_layer_head, trained_encoder_head = trained.heads.class_embed[0], trained.heads.class_embed[-1]
    torch.testing.assert_close(layer_head.weight[[0, 2]], trained_layer_head.weight[[3, 0]], rtol=0, atol=0)
    torch.testing.assert_close(encoder_head.weight, trained_encoder_head.weight[:3], rtol=0, atol=0)


def test_published_weights_have_the_classes_of_coco():
    """Of DETR's 92 rows COCO uses 80; the rows of "dog" and of "no object" must be the right ones."""
    model = Detector(num_classes=2)
    state = random_state(Detector(num_classes=91))
    report = load_checkpoint(model, renamed(state, *TO_DETR), fine_tune=True, class_names=("dog", "unicorn"))
    assert report.rows.kept == ["dog"]
    old = state["heads.class_embed.0.bias"].float()
    dog = COCO_IDS[COCO_CLASSES.index("dog")]
    assert model.heads.class_embed[0].bias[[0, 2]].tolist() == old[[dog, 91]].tolist()


def test_class_names_are_read_from_a_checkpoint():
    assert class_names_of({"class_names": ["a"]}) == ("a",)
    assert class_names_of({"meta": {"dataset_meta": {"classes": ("a", "b")}}}) == ("a", "b")
    assert class_names_of({"class_names": []}) == COCO_CLASSES


def test_class_names_without_fine_tuning_raise_an_error():
    with pytest.raises(ValueError, match="fine_tune=True"):
        load_checkpoint(Detector(), random_state(Detector()), class_names=("a", "b", "c"))


def test_different_classes_of_the_same_number_cause_a_warning(tmp_path, caplog):
    trained, model = Detector(), Detector()
    before = model.heads.class_embed[0].weight.detach().clone()
    torch.save({"model": trained.state_dict(), "class_names": ["horse", "cow", "pig"]}, tmp_path / "old.pth")
    train = {"init_checkpoint": str(tmp_path / "old.pth"), "init_new_parts": [], "trust_init_checkpoint": False}
    cfg = OmegaConf.create({"train": train})
    with caplog.at_level(logging.INFO):
        load_initial_weights(cfg, model, ("cow", "cat", "dog"))
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "cat, dog start from scratch" in warning
    assert "in place of horse, pig" in warning
    after = model.heads.class_embed[0].weight
    torch.testing.assert_close(after[0], trained.heads.class_embed[0].weight[1])
    torch.testing.assert_close(after[1:3], before[1:3])
    caplog.clear()
    load_initial_weights(cfg, model, ("horse", "cow", "pig"))
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
