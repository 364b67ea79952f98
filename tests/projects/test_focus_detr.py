"""Focus-DETR as a whole, and with the options of DINO. Models are small."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import convert_state_dict, load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.modeling import Outputs
from detrex_lite.testing import (
    SMALL,
    DeformableContract,
    DenoisingContract,
    TwoStageContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    make_input,
    predict,
    require_all_gradients,
    without_dropout,
)
from tests.suites import first_always

from .overfitting import four_images, overfitted_ap50, small_deformable, trained
from .published import PROJECTS

CONFIGS = PROJECTS / "focus_detr" / "configs"
ENCODER = "transformer.encoder"


def small_config(**changes):
    cfg = get_config("projects/focus_detr/configs/models/focus_detr_r50.py").model
    small = {
        **SMALL,
        "denoising.num_pairs": 6,
        f"{ENCODER}.layer_shares": [1.0, 0.4],
        f"{ENCODER}.layer.num_best": 20,
    }
    return changed(cfg, {**small, **changes})


class TestFocusDETR(DenoisingContract, DeformableContract):
    num_groups = 3  # six pairs, and at most two objects in an image
    aux_suffixes = frozenset({"_0", "_dn_0"})
    other_suffixes = frozenset({"_dn", "_enc"})

    def config(self, **changes):
        return small_config(**changes)

    def expected_losses(self, *, aux_loss=True):
        return super().expected_losses(aux_loss=aux_loss) | {"select_loss"}


@pytest.mark.slow
class TestTwoStages(TwoStageContract):
    def config(self, **changes):
        return small_config(**changes)

    def test_two_stages_need_refinement(self):
        with pytest.raises(ValueError, match="with_box_refine=True"):  # look_forward_twice needs it, too
            build(self.config(with_box_refine=False))


@pytest.mark.parametrize(
    "path",
    first_always(sorted(CONFIGS.glob("**/*.py"), key=lambda path: "r50" not in path.stem)),
    ids=lambda path: path.stem,
)
def test_every_config_builds(path):
    if "swin" in path.stem:
        pytest.importorskip("timm", reason="the package timm is not installed")
    model, cfg = build_on_meta(path)
    encoder = model.transformer.encoder
    assert (encoder.foreground_share, encoder.layer_shares) == (0.5, (1.0, 0.8, 0.6, 0.6, 0.4, 0.2))
    assert {layer.num_best for layer in encoder.layers} == {300}
    assert encoder.foreground.strides == (8, 16, 32, 64)
    longer = path.stem.startswith(("focus_detr_r50", "focus_detr_r101")) and path.stem.endswith(("24ep", "36ep"))
    assert cfg.position_embedding.temperature == (20 if longer else 10000)


def test_in_a_batch_as_published_the_largest_image_determines_the_refined_tokens(batch):
    """In evaluation images of each size run separately, so that detections do not depend on the batch."""
    model = build_randomised(without_dropout(small_config())).double().eval()
    smallest = min(range(len(batch)), key=lambda index: batch[index]["image"].numel())
    with torch.no_grad():
        alone = predict(model, [batch[smallest]], as_published=True)[""]
        together = predict(model, batch, as_published=True)[""]
        invariant = predict(model, batch)[""]
    assert_close(invariant.logits[smallest], alone.logits[0], rtol=1e-6, atol=1e-6)
    assert (together.logits[smallest] - alone.logits[0]).abs().max() > 1e-4


def test_images_of_one_size_run_together(batch):
    model = build_randomised(small_config()).double().eval()
    images = [make_input(96, 128, [], [], seed) for seed in range(2)] + [make_input(64, 96, [], [])]
    calls = []
    model.transformer.encoder.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    with torch.no_grad():
        model(images)
    assert calls == [2, 1]


def test_the_loss_of_scores_has_gradients_in_scores_and_projection(batch):
    model = build_randomised(without_dropout(small_config())).train()
    losses = model(batch)
    losses["select_loss"].backward()
    foreground = model.transformer.encoder.foreground
    assert all(parameter.grad.any() for parameter in foreground.parameters())
    assert model.queries.proposals.enc_output.weight.grad.any()
    assert model.heads.class_embed[-1].weight.grad is None


def test_scores_are_outputs_in_training(batch):
    model = build(small_config()).train()
    outputs = predict(model, batch, targets=True)
    assert isinstance(outputs, Outputs)
    assert len(outputs.extra["scores"]) == 4
    assert outputs.extra["image_sizes"] == [tuple(record["image"].shape[1:]) for record in batch]


OPTIONS = {
    "relation": {"transformer.decoder.relation": {"_target_": "detrex_lite.modeling.PositionRelation", "num_heads": 4}},
    "recollection": {"transformer.decoder.recollection": [[0], [0, 1]]},
    "one2many": {"queries.layout.num_queries_one2many": 12, "num_queries_one2many": 12},
    "shared_heads": {"share_heads": True},
    "no_denoising": {"denoising": None},
}


@pytest.mark.parametrize("name", first_always(OPTIONS))
def test_focus_detr_supports_the_options_of_dino(name, batch):
    model = build(small_config(**OPTIONS[name])).train()
    require_all_gradients(model, model(batch))


@pytest.mark.parametrize(
    "changes", [{"as_two_stage": False, "queries.mixed_selection": False}, {"transformer.encoder": "dino"}]
)
def test_other_encoders_and_one_stage_raise_an_error(changes, batch):
    dino = get_config("projects/dino/configs/models/dino_r50.py").model
    cfg = small_config(**{key: value for key, value in changes.items() if value != "dino"})
    if "transformer.encoder" in changes:
        cfg.transformer.encoder = dino.transformer.encoder
    model = build(cfg).train()
    with pytest.raises(ValueError, match="SparseEncoder.*as_two_stage"):
        model(batch)


def test_detrex_checkpoints_store_the_head_that_ranks_tokens_under_six_aliases():
    sizes = {f"{ENCODER}.num_layers": 6, f"{ENCODER}.layer_shares": [0.5] * 6, "transformer.decoder.num_layers": 6}
    model = build(small_config(**sizes))
    state = convert_state_dict(model.state_dict(), "detrex")
    for alias in ("enhance_MCSP_layerlist", "transformer.encoder.enhance_MCSP"):
        for layer in range(6):
            assert torch.equal(state[f"{alias}.{layer}.weight"], model.heads.class_embed[6].weight)
    loaded = build(small_config(**sizes), seed=1)
    report = load_checkpoint(loaded, state)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def overfitting_config():
    cfg = get_config("projects/focus_detr/configs/models/focus_detr_r50.py").model
    sizes = {
        "denoising.num_pairs": 5,
        f"{ENCODER}.layer_shares": [1.0, 0.6],
        f"{ENCODER}.layer.num_best": 30,
        f"{ENCODER}.foreground.strides": [8, 16, 32],
    }
    return small_deformable(cfg, **sizes)


def test_the_loss_falls(tmp_path):
    _, inputs = four_images(tmp_path)
    _, losses = trained(overfitting_config(), inputs, 10)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_four_images_are_overfitted(tmp_path):
    assert overfitted_ap50(overfitting_config(), tmp_path, 300) > 0.9
