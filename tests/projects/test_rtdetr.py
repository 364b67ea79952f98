"""RT-DETR and RT-DETRv2 as a whole. Models are small; their structure is that of the configs."""

import copy

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import CheckpointError, convert_state_dict, load_checkpoint
from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config, instantiate
from detrex_lite.layers import convert_to_deploy
from detrex_lite.modeling import HybridEncoder, PositionRelation
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
    loss_names,
    make_batch,
    predict,
    require_all_gradients,
)
from tests.suites import first_always

from .published import PROJECTS

CONFIGS = PROJECTS / "rtdetr" / "configs"
# The numbers of all and of trained parameters of the authors' models.
PARAMETERS = {
    "r18": (20_184_464, 20_184_464),
    "r34": (31_441_668, 31_441_668),
    "r50_m": (36_593_772, 36_565_260),
    "r50": (42_891_372, 42_862_860),
    "r101": (76_556_268, 76_527_756),
}
POINTS = "transformer.decoder.layer.attn[1].num_points"
SAMPLING = "transformer.decoder.layer.attn[1].sampling"
RELATION = {"transformer.decoder.relation": L(PositionRelation)(num_heads=4)}


def small_config(**changes):
    cfg = get_config("projects/rtdetr/configs/models/rtdetrv2_small.py").model
    small = {
        "num_classes": NUM_CLASSES,
        "num_queries": NUM_QUERIES,
        "embed_dim": 64,
        "neck.hidden_dim": 32,
        "transformer.decoder.num_layers": 2,
        "denoising.num_pairs": 6,
    }
    return changed(cfg, {**small, **changes})


@pytest.fixture
def batch():
    return make_batch()


class TestRTDETR(DenoisingContract, DeformableContract):
    num_groups = 3  # six pairs, and at most two objects in an image
    other_suffixes = frozenset({"_enc", "_dn"})

    def config(self, **changes):
        return small_config(**changes)


@pytest.mark.parametrize("variant", first_always(PARAMETERS))
@pytest.mark.parametrize("version", ["rtdetr", "rtdetrv2"])
def test_models_have_the_parameters_of_the_authors(version, variant):
    model, _ = build_on_meta(CONFIGS / "models" / f"{version}_{variant}.py")
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert (sum(map(torch.Tensor.numel, model.parameters())), sum(trained)) == PARAMETERS[variant]


def test_discrete_models_freeze_the_offsets():
    for path in (CONFIGS / "models").glob("*_discrete.py"):
        model, _ = build_on_meta(path)
        frozen = {name for name, value in model.transformer.named_parameters() if not value.requires_grad}
        assert {name.split(".")[-2] for name in frozen} == {"sampling_offsets"}
        assert len(frozen) == 2 * model.transformer.decoder.num_layers


@pytest.mark.parametrize(
    "changes",
    [{SAMPLING: "discrete"}, {POINTS: [2, 4, 3]}, {POINTS: [2, 4, 3], SAMPLING: "discrete"}],
    ids=["discrete", "points", "both"],
)
def test_other_sampling_settings_train_and_detect(changes, batch):
    model = build(small_config(**changes)).train()
    losses = model(batch)
    assert set(losses) == loss_names({"", "_0", "_enc", "_dn", "_dn_0"})
    require_all_gradients(model, losses)
    with torch.no_grad():
        assert len(model.eval()(batch)) == len(batch)


def test_evaluation_may_run_fewer_layers(batch):
    cfg = small_config(**{"transformer.decoder.num_layers": 3})
    full = build_randomised(cfg).double().eval()
    short = build_randomised(changed(cfg, {"transformer.decoder.num_eval_layers": 2})).double().eval()
    with torch.no_grad():
        named, fewer = predict(full, batch), predict(short, batch)
        assert set(fewer) == {"", "_0"}
        assert_close(fewer[""].logits, named["_1"].logits)
        assert_close(fewer[""].boxes, named["_1"].boxes)
        assert set(predict(short, batch, targets=True)) == {"", "_0", "_1", "_enc", "_dn", "_dn_0", "_dn_1"}
    with pytest.raises(ValueError, match="num_eval_layers=4"):
        build(changed(cfg, {"transformer.decoder.num_eval_layers": 4}))


def test_the_label_embedding_of_padding_is_not_trained(batch):
    model = build_randomised(small_config()).train()
    embedding = model.denoising.label_embedding
    assert embedding.weight.shape == (NUM_CLASSES + 1, 64)
    assert not embedding.weight[-1].any()
    with torch.no_grad():
        embedding.weight[-1] = 5.0
    sum(model(batch).values()).backward()
    assert not embedding.weight.grad[-1].any()
    assert embedding.weight.grad[:-1].any()


OVERRIDES = {
    "relations of queries": (RELATION, set()),
    "one-to-many branch": ({"num_queries_one2many": 12}, {"_one2many", "_0_one2many"}),
    "learned contents": ({"queries.mixed_selection": True}, set()),
    "no attention in the neck": ({"neck.encoder": None}, set()),
    "no look forward twice": ({"heads.look_forward_twice": False}, set()),
}


@pytest.mark.parametrize("name", first_always(OVERRIDES, 2))
def test_options_of_other_detectors_are_overrides(name, batch):
    changes, additional_suffixes = OVERRIDES[name]
    model = build(small_config(**changes)).train()
    losses = model(batch)
    assert set(losses) == loss_names({"", "_0", "_enc", "_dn", "_dn_0", *additional_suffixes})
    require_all_gradients(model, losses)
    with torch.no_grad():
        assert len(model.eval()(batch)) == len(batch)


def test_denoising_can_be_omitted(batch):
    losses = build(small_config(denoising=None)).train()(batch)
    assert set(losses) == loss_names({"", "_0", "_enc"})


@pytest.mark.parametrize("encoder", [True, False], ids=["before its encoder", "instead of its encoder"])
def test_the_hybrid_encoder_is_a_neck_for_dino(encoder, batch):
    cfg = get_config("projects/dino/configs/models/dino_r50.py").model
    neck = small_config().neck
    neck.in_channels = cfg.neck.in_channels
    changes = {"neck": neck, "transformer.num_feature_levels": 3, "denoising.num_pairs": 6, "backbone.norm": "BN"}
    cfg = changed(cfg, {**SMALL, **changes})
    if not encoder:
        layer = small_config().transformer.decoder.layer  # the layer of DINO refers to settings of its encoder
        without_encoder = {"transformer.encoder": None, "position_embedding": None, "transformer.decoder.layer": layer}
        cfg = changed(cfg, without_encoder)
    model = build(cfg).train()
    assert isinstance(model.neck, HybridEncoder)
    losses = model(batch)
    assert set(losses) == loss_names({"", "_0", "_enc", "_dn", "_dn_0"})
    require_all_gradients(model, losses)


def with_statistics(cfg):
    """A model whose batch norms have other statistics than at first, as after training."""
    model = build_randomised(cfg)
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_a_deployed_model_detects_the_same(norm, batch):
    model = with_statistics(small_config(**{"backbone.norm": norm}))
    deployed = convert_to_deploy(copy.deepcopy(model))
    assert not [name for name, _ in deployed.named_buffers() if name.endswith("running_mean")]
    assert not hasattr(deployed.neck.top_down[0].blocks[0].branches, "parameters")
    with torch.no_grad():
        # In float32 rounding decides which of two tokens with equal scores becomes a query.
        images = model.preprocess(batch, as_published=False)
        for expected, actual in zip(model.extract_features(images), deployed.extract_features(images), strict=True):
            assert_close(actual.tensor, expected.tensor, rtol=1e-5, atol=1e-5)
        deployed = convert_to_deploy(copy.deepcopy(model.double()))
        original, detected = predict(model, batch)[""], predict(deployed, batch)[""]
        assert_close(detected.logits, original.logits)
        assert_close(detected.boxes, original.boxes)


def test_a_deployed_model_is_saved_and_loaded(tmp_path, batch):
    """Published weights are loaded, deployed, saved, and loaded into a deployed model."""
    cfg = small_config()
    model = build(cfg, seed=1)
    load_checkpoint(model, convert_state_dict(with_statistics(cfg).state_dict(), "rtdetrv2")).require_complete(
        "published"
    )
    deployed = convert_to_deploy(model)
    torch.save(deployed.state_dict(), tmp_path / "deployed.pth")
    loaded = convert_to_deploy(build(cfg, seed=2))
    load_checkpoint(loaded, tmp_path / "deployed.pth").require_complete("deployed")
    with torch.no_grad():
        images = model.preprocess(batch, as_published=False)
        maps = with_statistics(cfg).extract_features(images)
        for expected, actual in zip(maps, loaded.extract_features(images), strict=True):
            assert_close(actual.tensor, expected.tensor, rtol=1e-5, atol=1e-5)
    with pytest.raises(CheckpointError):
        load_checkpoint(build(cfg), tmp_path / "deployed.pth").require_complete("deployed")


@pytest.mark.parametrize("names", ["rtdetr", "rtdetrv2", "transformers"])
def test_converting_to_published_names_and_back_restores_all_weights(names, batch):
    cfg = small_config()
    model = with_statistics(cfg)
    published = convert_state_dict(model.state_dict(), names)
    loaded = build(cfg, seed=1).eval()
    report = load_checkpoint(loaded, {"ema": {"module": published}})
    report.require_complete("published")
    assert report.key_map == names
    assert report.unexpected == []
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert_close(loaded.state_dict()[name], value)


def test_constants_and_deployed_branches_in_published_files_are_ignored():
    cfg = small_config()
    published = convert_state_dict(build(cfg).state_dict(), "rtdetrv2")
    branch = "encoder.fpn_blocks.0.bottlenecks.0.conv"
    published |= {
        "decoder.anchors": torch.zeros(1, 8400, 4),
        "decoder.valid_mask": torch.ones(1, 8400, 1),
        "decoder.decoder.layers.0.cross_attn.num_points_scale": torch.full((12,), 0.25),
        f"{branch}.weight": torch.zeros_like(published[f"{branch}1.conv.weight"]),  # of a deployed model
        f"{branch}.bias": torch.zeros_like(published[f"{branch}1.norm.bias"]),
    }
    report = load_checkpoint(build(cfg), published)
    assert report.unexpected == report.missing == []


def test_names_of_the_authors_are_written():
    published = convert_state_dict(build(small_config()).state_dict(), "rtdetr")
    for name in (
        "backbone.conv1.conv1_3.norm.running_var",
        "backbone.res_layers.0.blocks.0.short.conv.weight",
        "backbone.res_layers.3.blocks.0.short.conv.norm.bias",
        "backbone.res_layers.2.blocks.1.branch2b.conv.weight",
        "encoder.input_proj.2.1.weight",
        "encoder.encoder.0.layers.0.self_attn.in_proj_weight",
        "encoder.pan_blocks.1.bottlenecks.0.conv2.norm.weight",
        "encoder.downsample_convs.1.conv.weight",
        "decoder.input_proj.0.conv.weight",
        "decoder.enc_output.1.weight",
        "decoder.decoder.layers.1.cross_attn.sampling_offsets.weight",
        "decoder.query_pos_head.layers.1.weight",
        "decoder.enc_bbox_head.layers.2.bias",
        "decoder.dec_score_head.1.bias",
        "decoder.denoising_class_embed.weight",
    ):
        assert name in published


def test_the_backbone_loads_imagenet_weights(tmp_path):
    cfg = small_config()
    model = with_statistics(cfg)
    published = convert_state_dict(model.state_dict(), "rtdetr")
    path = tmp_path / "resnet18_vd.pth"
    names = [name for name in published if name.startswith("backbone.")]
    torch.save({name.removeprefix("backbone."): published[name] for name in names}, path)
    loaded = instantiate(changed(cfg, {"backbone.weights": str(path)}).backbone).state_dict()
    for name, value in model.backbone.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert_close(loaded[name], value)
