"""DN-Deformable-DETR as a whole. Models are small; their structure is that of the configs."""

import pytest
from torch.testing import assert_close

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import LazyConfig, get_config
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    SMALL,
    DeformableContract,
    DenoisingContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    parameter_patterns,
    predict,
)
from tests.suites import first_always

from .published import PROJECTS, under_detrex_names

CONFIGS = PROJECTS / "dn_deformable_detr" / "configs"

NO_DENOISING = {"denoising": None}
WITH_DENOISING = {"one_stage": {}, "two_stage": {"as_two_stage": True}}
VARIANTS = {**WITH_DENOISING, "without_refinement": {"with_box_refine": False}, "without_denoising": NO_DENOISING}


def small_config(**changes):
    cfg = get_config("projects/dn_deformable_detr/configs/models/dn_deformable_detr_r50.py").model
    return changed(cfg, {**SMALL, **changes})


@pytest.mark.parametrize("variant", WITH_DENOISING.values(), ids=WITH_DENOISING)
class TestDNDeformableDETR(DenoisingContract, DeformableContract):
    def config(self, **changes):
        return small_config(**self.variant, **changes)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("models/*.py"))), ids=lambda path: path.stem)
def test_every_model_config_builds(path):
    model, cfg = build_on_meta(path)
    assert len(model.heads.class_embed) == cfg.transformer.decoder.num_layers == 6
    assert (model.denoising.num_groups, model.denoising.padding_in_loss) == (5, False)
    assert model.denoising.label_embedding.weight.shape == (cfg.num_classes + 1, cfg.embed_dim - 1)


@pytest.mark.parametrize(("epochs", "milestone"), [(12, 11), (50, 40)])
def test_training_configs_have_the_published_schedules(epochs, milestone):
    cfg = LazyConfig.load(str(CONFIGS / f"dn_deformable_detr_r50_{epochs}ep.py"))
    schedule = cfg.lr_multiplier
    assert (cfg.train.max_epochs, schedule.epochs, schedule.milestones) == (epochs, epochs, [milestone])
    assert cfg.train.output_dir.endswith(f"dn_deformable_detr_r50_{epochs}ep")
    assert (cfg.dataloader.train.total_batch_size, cfg.optimizer.lr) == (16, 1e-4)


def decoder_inputs(model, inputs):
    """The contents (B, Q, C) that the decoder gets in training, and how many of them are denoising queries."""
    contents = []
    model.transformer.decoder.register_forward_pre_hook(lambda module, args: contents.append(args[0].content))
    named = predict(model.train(), inputs, targets=True)
    return contents[0], named["_dn"].logits.shape[1]


def test_the_last_channel_distinguishes_denoising_from_matching_queries(batch):
    model = build_randomised(small_config())
    content, number = decoder_inputs(model, batch)
    assert (number, content.shape) == (5 * 2, (3, 5 * 2 + NUM_QUERIES, 64))  # five groups of two objects at most
    real = content[:, :number].any(-1)
    assert real.sum(dim=1).tolist() == [10, 0, 5]
    assert (content[:, :number, -1] == real).all()
    assert not content[:, number:, -1].any()
    assert_close(content[:, number:, :-1], model.queries.content.weight.expand(3, -1, -1))


def test_contents_of_proposals_have_no_indicator(batch):
    content, number = decoder_inputs(build_randomised(small_config(as_two_stage=True)), batch)
    assert content[:, number:, -1].all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_label_embedding_is_added_to_dab_deformable_detr(variant):
    cfg = get_config("projects/dab_deformable_detr/configs/models/dab_deformable_detr_r50.py").model
    changes = {key: value for key, value in VARIANTS[variant].items() if key != "denoising"}
    dab_shapes = {name: value.shape for name, value in build(changed(cfg, {**SMALL, **changes})).state_dict().items()}
    dn_shapes = {name: value.shape for name, value in build(small_config(**VARIANTS[variant])).state_dict().items()}
    if variant != "without_denoising":
        assert dn_shapes.pop("denoising.label_embedding.weight") == (NUM_CLASSES + 1, 63)
    if variant != "two_stage":
        contents = dn_shapes.pop("queries.content.weight"), dab_shapes.pop("queries.content.weight")
        assert contents == ((NUM_QUERIES, 63), (NUM_QUERIES, 64))
    assert dn_shapes == dab_shapes


def test_parameter_names_are_stable():
    assert parameter_patterns(build(small_config()), ("backbone.", "neck.", "transformer.")) == {
        "heads.class_embed.N.*",
        "heads.bbox_embed.N.layers.N.*",
        "denoising.label_embedding.*",
        "queries.boxes.*",
        "queries.content.*",
    }


def test_detrex_checkpoints_load():
    state = under_detrex_names(build(small_config()).state_dict())
    model = build(small_config(), seed=1)
    report = load_checkpoint(model, state)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    assert_close(model.denoising.label_embedding.weight, state["denoising_generator.label_encoder.weight"])
