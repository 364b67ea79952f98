"""DN-Deformable-DETR as a whole. Models are small; their structure is that of the configs."""

import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import detrex_lite.projects
from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import LazyConfig, get_config

from .contract import (
    NUM_CLASSES,
    NUM_QUERIES,
    SMALL,
    DetectorContract,
    build,
    build_lively,
    build_on_meta,
    changed,
    make_input,
    under_detrex_names,
)
from .test_deformable_detr import predict

CONFIGS = Path(next(iter(detrex_lite.projects.__path__))) / "dn_deformable_detr" / "configs"

NO_NOISE = {"denoising.label_noise_prob": 0.0, "denoising.box_noise_scale": 0.0}
DENOISED = {"_dn", "_dn_0"}
VARIANTS = {
    "one_stage": {},
    "two_stage": {"as_two_stage": True},
    "without_refinement": {"with_box_refine": False},
    "without_denoising": {"denoising": None},
}


def small_config(**changes):
    cfg = get_config("projects/dn_deformable_detr/configs/models/dn_deformable_detr_r50.py").model
    return changed(cfg, {**SMALL, **changes})


class TestDNDeformableDETR(DetectorContract):
    max_detections = 20
    pixel_tolerance = {"rtol": 1e-6, "atol": 1e-4}  # noqa: RUF012 - where tokens are is float32 in all models

    @pytest.fixture(autouse=True, params=VARIANTS)
    def _variant(self, request):
        self.variant = VARIANTS[request.param]
        denoises = "denoising" not in self.variant
        self.aux_suffixes = {"_0", "_dn_0"} if denoises else {"_0"}
        self.other_suffixes = {"_dn"} if denoises else set()
        if "as_two_stage" in self.variant:
            self.other_suffixes.add("_enc")

    def config(self, **changes):
        return small_config(**self.variant, **changes)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("**/*.py")), ids=lambda path: path.stem)
def test_every_config_builds(path):
    model, cfg = build_on_meta(path)
    assert len(model.class_embed) == cfg.transformer.decoder.num_layers == 6
    assert model.denoising.num_groups == 5
    assert model.denoising.label_embedding.weight.shape == (cfg.num_classes + 1, cfg.embed_dim - 1)


@pytest.mark.parametrize(("epochs", "milestone"), [(12, 11), (50, 40)])
def test_schedules(epochs, milestone):
    cfg = LazyConfig.load(str(CONFIGS / f"dn_deformable_detr_r50_{epochs}ep.py"))
    assert (cfg.train.max_epochs, cfg.lr_multiplier.epochs, cfg.lr_multiplier.milestones) == (
        epochs,
        epochs,
        [milestone],
    )
    assert cfg.train.output_dir.endswith(f"dn_deformable_detr_r50_{epochs}ep")
    assert (cfg.dataloader.train.total_batch_size, cfg.optimizer.lr) == (16, 1e-4)


def decoder_inputs(model, inputs):
    """The contents (B, Q, C) that the decoder gets in training, and how many of them are denoising queries."""
    seen = []
    model.transformer.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    named = predict(model.train(), inputs, targets=True)
    return seen[0], named["_dn"].logits.shape[1]


def test_the_last_channel_tells_denoising_from_matching_queries(batch):
    model = build_lively(small_config())
    content, number = decoder_inputs(model, batch)
    assert (number, content.shape) == (5 * 2, (3, 5 * 2 + NUM_QUERIES, 64))  # five groups of two objects at most
    real = content[:, :number].any(-1)
    assert real.sum(dim=1).tolist() == [10, 0, 5]
    assert (content[:, :number, -1] == real).all()
    assert not content[:, number:, -1].any()
    assert_close(content[:, number:, :-1], model.tgt_embed.weight.expand(3, -1, -1))


def test_proposals_have_no_indicator(batch):
    content, number = decoder_inputs(build_lively(small_config(as_two_stage=True)), batch)
    assert content[:, number:, -1].all()


def test_denoising_starts_from_the_objects(batch):
    """Without noise, boxes of denoising queries are the objects' where the box heads say nothing."""
    model = build(small_config(**NO_NOISE)).train()
    torch.nn.init.zeros_(model.bbox_embed[0].layers[-1].bias)  # begins with small boxes
    named = predict(model, batch, targets=True)
    for suffix in DENOISED:
        image, query, target = named[suffix].match
        assert len(target) == 5 * 3
        assert_close(named[suffix].boxes[image, query], named[suffix].targets.boxes[target], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["one_stage", "two_stage"])
def test_denoising_leaves_the_other_queries_alone(variant, batch):
    model = build_lively(small_config(**VARIANTS[variant])).double().train()
    with_denoising = predict(model, batch, targets=True)
    model.denoising = None
    without = predict(model, batch, targets=True)
    assert set(with_denoising) - set(without) == DENOISED
    for suffix, expected in without.items():
        assert_close(with_denoising[suffix].logits, expected.logits)
        assert_close(with_denoising[suffix].boxes, expected.boxes)


def test_there_is_no_denoising_in_evaluation(batch):
    model = build_lively(small_config()).eval()
    with torch.no_grad():
        assert set(predict(model, batch, targets=True)) == {"", "_0"}


def test_a_batch_without_objects_gives_the_label_embedding_a_gradient_of_zeros():
    model = build(small_config()).train()
    losses = model([make_input(32, 32, [], [], seed) for seed in range(2)])
    assert all(loss == 0 for name, loss in losses.items() if "_dn" in name)
    sum(losses.values()).backward()
    assert not model.denoising.label_embedding.weight.grad.any()


def test_the_noise_is_a_key_of_the_config():
    model = build(small_config(**{"denoising.label_noise_prob": 0.0, "denoising.box_noise_scale": 0.1}))
    assert (model.denoising.label_noise_prob, model.denoising.box_noise_scale) == (0.0, 0.1)
    assert model.denoising.num_classes == NUM_CLASSES


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_it_adds_to_dab_deformable_detr_is_the_label_embedding(variant):
    cfg = get_config("projects/dab_deformable_detr/configs/models/dab_deformable_detr_r50.py").model
    changes = {key: value for key, value in VARIANTS[variant].items() if key != "denoising"}
    shapes = {name: value.shape for name, value in build(changed(cfg, {**SMALL, **changes})).state_dict().items()}
    ours = {name: value.shape for name, value in build(small_config(**VARIANTS[variant])).state_dict().items()}
    if variant != "without_denoising":
        assert ours.pop("denoising.label_embedding.weight") == (NUM_CLASSES + 1, 63)
    if variant != "two_stage":
        assert (ours.pop("tgt_embed.weight"), shapes.pop("tgt_embed.weight")) == ((NUM_QUERIES, 63), (NUM_QUERIES, 64))
    assert ours == shapes


def test_parameter_names_are_stable():
    names = {re.sub(r"\.\d+(?=\.)", ".N", name) for name in build(small_config()).state_dict()}
    names = {name for name in names if not name.startswith(("backbone.", "neck.", "transformer."))}
    assert {re.sub(r"\.(weight|bias)$", ".*", name) for name in names} == {
        "class_embed.N.*",
        "bbox_embed.N.layers.N.*",
        "denoising.label_embedding.*",
        "refpoint_embed.*",
        "tgt_embed.*",
    }


def test_detrex_checkpoints_load():
    state = under_detrex_names(build(small_config()).state_dict(), label_embedding="denoising_generator.label_encoder.")
    model = build(small_config(), seed=1)
    report = load_checkpoint(model, state)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    assert_close(model.denoising.label_embedding.weight, state["denoising_generator.label_encoder.weight"])
