"""D-FINE as a whole. Models are small; their structure is that of the configs."""

import copy

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import convert_state_dict, load_checkpoint
from detrex_lite.config import LazyCall as L
from detrex_lite.config import LazyConfig, get_config, instantiate
from detrex_lite.layers import convert_to_deploy
from detrex_lite.modeling import (
    DecoupledDistillationFocalLoss,
    DistributionHeads,
    EdgeBins,
    FineGrainedLocalizationLoss,
    PositionRelation,
)
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

CONFIGS = PROJECTS / "dfine" / "configs"
# The numbers of all and of trained parameters of the authors' models, without two constants.
PARAMETERS = {
    "n": (3_782_691, 3_782_691),
    "s": (10_321_875, 10_321_875),
    "m": (19_590_062, 19_590_062),
    "l": (31_244_150, 31_219_222),
    "x": (62_621_558, 62_596_118),
}
LAYERS = {"", "_0", "_dn", "_dn_0"}
POINTS = "transformer.decoder.layer.attn[1].attention.num_points"


def small_config(**changes):
    cfg = get_config("projects/dfine/configs/models/dfine_small.py").model
    small = {
        "num_classes": NUM_CLASSES,
        "num_queries": NUM_QUERIES,
        "embed_dim": 32,
        "neck.hidden_dim": 32,
        "neck.encoder.layer.ffn.feedforward_dim": 64,
        "transformer.decoder.num_layers": 2,
        "denoising.num_pairs": 6,
    }
    return changed(cfg, {**small, **changes})


def expected_names(layers=frozenset(LAYERS), plain=frozenset({"_enc", "_pre", "_dn_pre"})):
    """The names of losses. The plain boxes of encoder and first layer (`plain`) have no losses of distributions."""
    return loss_names({*layers, *plain}) | loss_names(layers, ("fgl", "ddf"))


@pytest.fixture
def batch():
    return make_batch()


class TestDFINE(DenoisingContract, DeformableContract):
    num_groups = 3  # six pairs, and at most two objects in an image

    def config(self, **changes):
        return small_config(**changes)

    def expected_losses(self, *, aux_loss=True):
        return expected_names(LAYERS if aux_loss else {"", "_dn"})


@pytest.mark.parametrize("variant", first_always(PARAMETERS))
def test_models_have_the_parameters_of_the_authors(variant):
    model, _ = build_on_meta(CONFIGS / "models" / f"dfine_{variant}.py")
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert (sum(map(torch.Tensor.numel, model.parameters())), sum(trained)) == PARAMETERS[variant]
    assert model.heads.bins.reg_scale == (8 if variant == "x" else 4)
    assert model.criterion.losses["loss_fgl"].bins == model.heads.bins


LEAVES = sorted(path for path in CONFIGS.glob("dfine_*ep.py"))


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_training_configs_decay_the_parameters_that_the_authors_decay(path):
    model, _ = build_on_meta(path)
    cfg = LazyConfig.load(str(path))
    cfg.optimizer.params.model = model
    groups = instantiate(cfg.optimizer).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    settings = {
        names[parameter]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]
    }
    learning_rate, weight_decay = cfg.optimizer.lr, cfg.optimizer.weight_decay
    factor = cfg.optimizer.params.backbone_lr_factor
    with_decayed_biases = path.stem.split("_")[1] in "lx"
    assert settings["heads.class_embed.0.weight"] == (learning_rate, weight_decay)
    assert settings["heads.class_embed.0.bias"] == (learning_rate, weight_decay if with_decayed_biases else 0.0)
    assert settings["neck.laterals.0.norm.weight"] == (learning_rate, 0.0)
    assert settings["backbone.stages.1.blocks.0.layers.0.conv.weight"] == (learning_rate * factor, weight_decay)
    norm = "backbone.stages.1.blocks.0.layers.0.norm.bias"
    assert (norm in settings) != with_decayed_biases  # the batch norms of L and X are frozen
    assert settings.get(norm, (learning_rate * factor, weight_decay)) == (learning_rate * factor, weight_decay)
    assert cfg.dataloader.strong_epochs[1] == cfg.train.model_ema.restart.epoch < cfg.train.max_epochs
    assert f"_{cfg.train.max_epochs}ep" in path.stem
    assert cfg.train.output_dir == f"output/{path.stem}"


OVERRIDES = {
    "relations of queries": ({"transformer.decoder.relation": L(PositionRelation)(num_heads=4)}, LAYERS),
    "one-to-many branch": ({"num_queries_one2many": 12}, {*LAYERS, "_one2many", "_0_one2many"}),
    "learned contents": ({"queries.mixed_selection": True}, LAYERS),
    "no location quality": ({"heads.quality": None}, LAYERS),
    "no union of matches": ({"criterion.union": None}, LAYERS),
    "other points": ({POINTS: [2, 4, 3]}, LAYERS),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_options_are_overrides(name, batch):
    changes, layers = OVERRIDES[name]
    model = build(small_config(**changes)).train()
    losses = model(batch)
    plain = {"_enc", "_pre", "_dn_pre"} | ({"_pre_one2many"} if "_one2many" in layers else set())
    assert set(losses) == expected_names(layers, plain)
    require_all_gradients(model, losses)
    with torch.no_grad():
        assert len(model.eval()(batch)) == len(batch)


def test_evaluation_may_run_fewer_layers(batch):
    cfg = small_config(**{"transformer.decoder.num_layers": 3})
    full = build_randomised(cfg).double().eval()
    short = build_randomised(changed(cfg, {"transformer.decoder.num_eval_layers": 2})).double().eval()
    with torch.no_grad():
        named, fewer = predict(full, batch), predict(short, batch)
        assert_close(fewer[""].logits, named["_1"].logits)
        assert_close(fewer[""].boxes, named["_1"].boxes)


def test_positions_of_queries_are_clamped(batch):
    model = build_randomised(small_config()).eval()
    torch.nn.init.constant_(model.transformer.decoder.position_head.layers[-1].bias, 25.0)
    query_positions = []
    attention = model.transformer.decoder.layers[0].attentions[0]
    attention.register_forward_pre_hook(
        lambda *arguments: query_positions.append(arguments[-1]["query_pos"]), with_kwargs=True
    )
    with torch.no_grad():
        predict(model, batch)
    assert_close(query_positions[0], torch.full_like(query_positions[0], 10.0))


def test_dino_supports_heads_and_losses_of_distributions(batch):
    cfg = get_config("projects/dino/configs/models/dino_r50.py").model
    cfg = changed(cfg, {**SMALL, "denoising.num_pairs": 6})
    bins = L(EdgeBins)(reg_max=16, reg_scale=4.0, up=0.5)
    cfg.heads._target_ = DistributionHeads
    cfg.heads.look_forward_twice = False
    cfg.heads.bins = bins
    cfg.criterion.losses.loss_fgl = L(FineGrainedLocalizationLoss)(bins="${....heads.bins}")
    cfg.criterion.losses.loss_ddf = L(DecoupledDistillationFocalLoss)()
    cfg.criterion.weights.merge_with(dict(loss_fgl=0.15, loss_ddf=1.5))
    model = build(cfg).train()
    losses = model(batch)
    assert set(losses) == expected_names()
    require_all_gradients(model, losses)


def with_statistics(cfg):
    """A model whose batch norms have other statistics than at first, as after training."""
    model = build_randomised(cfg)
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("changes", [{}, {"backbone.norm": "FrozenBN", "transformer.decoder.num_eval_layers": 1}])
def test_a_deployed_model_detects_the_same(changes, batch):
    model = with_statistics(small_config(**changes)).double()
    deployed = convert_to_deploy(copy.deepcopy(model))
    assert not [name for name, _ in deployed.named_buffers() if name.endswith("running_mean")]
    names = deployed.state_dict()
    number = changes.get("transformer.decoder.num_eval_layers", 2)
    assert [name for name in names if "quality_embed" in name and name.endswith("layers.1.bias")] == [
        f"heads.quality_embed.{number - 1}.mlp.layers.1.bias"
    ]
    assert not [name for name in names if name.startswith("denoising.")]
    with torch.no_grad():
        original, actual = predict(model, batch)[""], predict(deployed, batch)[""]
        assert_close((actual.logits, actual.boxes), (original.logits, original.boxes), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("names", first_always(["dfine", "transformers"]))
def test_published_weights_are_deployed_saved_and_loaded(names, tmp_path, batch):
    cfg = small_config()
    original, model = with_statistics(cfg).double(), build(cfg, seed=1).double()
    report = load_checkpoint(model, {"ema": {"module": convert_state_dict(original.state_dict(), names)}})
    report.require_complete("published")
    assert (report.key_map, report.unexpected) == (names, [])
    for name, value in original.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert_close(model.state_dict()[name], value)
    torch.save(convert_to_deploy(model).state_dict(), tmp_path / "deployed.pth")
    loaded = convert_to_deploy(build(cfg, seed=2).double())
    load_checkpoint(loaded, tmp_path / "deployed.pth").require_complete("deployed")
    with torch.no_grad():
        for actual, expected in zip(loaded(batch), original(batch), strict=True):
            assert_close(actual["instances"].scores, expected["instances"].scores)


def test_names_of_the_authors_are_written_and_constants_in_their_files_ignored():
    model = build(small_config())
    published = convert_state_dict(model.state_dict(), "dfine")
    for name in (
        "backbone.stem.stem2a.lab.scale",
        "backbone.stages.1.downsample.bn.running_var",
        "backbone.stages.0.blocks.0.layers.2.conv.weight",
        "backbone.stages.2.blocks.1.layers.0.conv2.bn.weight",
        "backbone.stages.3.blocks.0.aggregation.1.lab.bias",
        "encoder.input_proj.2.norm.weight",
        "encoder.encoder.0.layers.0.self_attn.in_proj_weight",
        "encoder.fpn_blocks.0.cv2.0.bottlenecks.0.conv2.norm.weight",
        "encoder.pan_blocks.1.cv3.1.conv.weight",
        "encoder.pan_blocks.0.cv4.norm.bias",
        "encoder.downsample_convs.1.0.cv2.conv.weight",
        "decoder.enc_output.proj.weight",
        "decoder.decoder.layers.1.cross_attn.sampling_offsets.weight",
        "decoder.decoder.layers.1.gateway.norm.weight",
        "decoder.decoder.layers.0.norm3.weight",
        "decoder.decoder.lqe_layers.1.reg_conf.layers.0.weight",
        "decoder.pre_bbox_head.layers.2.bias",
        "decoder.dec_bbox_head.1.layers.2.bias",
        "decoder.enc_bbox_head.layers.2.bias",
        "decoder.denoising_class_embed.weight",
    ):
        assert name in published
    published |= {
        "decoder.anchors": torch.zeros(1, 8400, 4),
        "decoder.up": torch.tensor([0.5]),
        "decoder.decoder.up": torch.tensor([0.5]),
        "decoder.reg_scale": torch.tensor([4]),
        "decoder.decoder.reg_scale": torch.tensor([4]),
        "decoder.decoder.layers.0.cross_attn.num_points_scale": torch.full((12,), 0.25),
    }
    report = load_checkpoint(model, published)
    assert report.unexpected == report.missing == []
