import math
import re
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from detrex_lite.modeling import TimmBackbone, timm_channels
from detrex_lite.modeling.layer_norm import LayerNorm2d

timm = pytest.importorskip("timm", reason="the package timm is not installed")

SWIN = "swin_tiny_patch4_window7_224"
# Strided convolutions without padding, batch norm, windows, global attention: stages, channels, strides.
FAMILIES = {
    "test_convnext": ([1, 2, 3], {"stage1": 32, "stage2": 48, "stage3": 64}, [8, 16, 32]),
    "test_resnet": ([-1, 2], {"stage2": 48, "stage4": 96}, [8, 32]),
    SWIN: ([0, 2], {"stage0": 96, "stage2": 384}, [4, 16]),
    "test_vit": ([-1], {"stage5": 64}, [16]),
}
# Arguments with which timm's networks accept images of any size, and sizes that they accept without padding.
ANY_SIZE = {SWIN: {"strict_img_size": False, "always_partition": True}, "test_vit": {"dynamic_img_size": True}}
UNPADDED_SIZES = {SWIN: (112, 224), "test_convnext": (45, 70)}


def make(model_name="test_convnext", out_indices=(1, 3), **arguments):
    torch.manual_seed(0)
    return TimmBackbone(model_name=model_name, out_indices=out_indices, **arguments)


def random_images(height, width, batch=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model_name", FAMILIES)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 70), (8, 8)])
def test_all_image_sizes_give_maps_in_float64(model_name, height, width):
    indices, channels, strides = FAMILIES[model_name]
    backbone = make(model_name, indices).double().eval()
    with torch.no_grad():
        maps = backbone(random_images(height, width, batch=2).double())

    def cells(side, stride):
        ignores_remainder = model_name == "test_convnext" and side >= strides[-1]
        return side // stride if ignores_remainder else math.ceil(side / stride)

    assert {name: tuple(level.shape) for name, level in maps.items()} == {
        name: (2, channels[name], cells(height, stride), cells(width, stride))
        for name, stride in zip(channels, strides, strict=True)
    }
    assert {level.dtype for level in maps.values()} == {torch.float64}


@pytest.mark.parametrize("model_name", FAMILIES)
def test_channels_and_strides_are_known_without_weights(model_name):
    indices, channels, strides = FAMILIES[model_name]
    with torch.device("meta"):
        backbone = TimmBackbone(model_name=model_name, out_indices=indices)
    assert backbone.channels == channels
    assert list(backbone.strides.values()) == strides
    state = torch.get_rng_state()
    assert timm_channels(model_name=model_name, out_indices=indices) == channels
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("model_name", FAMILIES)
def test_maps_agree_with_timm(model_name):
    indices, channels, _ = FAMILIES[model_name]
    backbone = make(model_name, indices).eval()
    indices = [int(name.removeprefix("stage")) for name in channels]
    arguments = {"features_only": True, "feature_cls": "getter", "out_indices": indices, **ANY_SIZE.get(model_name, {})}
    timm_network = timm.create_model(model_name, **arguments).eval()
    for name, parameter in backbone.named_parameters():
        if name.endswith("gamma"):  # layer scale, which is almost zero in an untrained ConvNeXt
            nn.init.normal_(parameter)
    timm_network.model.load_state_dict(backbone.model.state_dict())
    height, width = UNPADDED_SIZES.get(model_name, (45, 70))
    images = random_images(height, width)
    coarsest = 1 if model_name in UNPADDED_SIZES else max(backbone.strides.values())
    padded = nn.functional.pad(images, (0, -width % coarsest, 0, -height % coarsest))
    with torch.no_grad():
        for actual, expected in zip(backbone(images).values(), timm_network(padded), strict=True):
            assert_close(actual, expected[..., : actual.shape[-2], : actual.shape[-1]])


def test_stages_are_ordered_from_fine_to_coarse():
    for indices in ([3, 1], [-1, -3], [1, 3, 1]):
        assert list(make(out_indices=indices).channels) == ["stage1", "stage3"]


def test_stages_without_outputs_are_not_built():
    truncated, full = make(out_indices=[0]).eval(), make(out_indices=[0, 3]).eval()
    parts = {
        name.rpartition(".stages.")[2].partition(".")[0] for name, _ in truncated.named_parameters() if "stages" in name
    }
    assert parts == {"0"}
    assert not [name for name, _ in full.named_parameters() if "head" in name]
    truncated.load_state_dict(full.state_dict(), strict=False)
    images = random_images(32, 64)
    assert_close(truncated(images)["stage0"], full(images)["stage0"])


@pytest.mark.parametrize("model_name", FAMILIES)
def test_all_parameters_get_gradients(model_name):
    backbone = make(model_name, FAMILIES[model_name][0], norm_outputs=True, freeze_batch_norm=False).train()
    sum(level.square().sum() for level in backbone(random_images(64, 96, batch=2)).values()).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("model_name", "frozen"),
    [("test_convnext", ["stem", "stages.0"]), ("test_vit", ["pos_embed", "patch_embed", "blocks.0.attn"])],
)
def test_frozen_parts_get_no_gradients(model_name, frozen):
    backbone = make(model_name, [-1], frozen=frozen, drop_path_rate=0.5).train()
    sum(level.sum() for level in backbone(random_images(32, 32)).values()).backward()
    trained = {name for name, parameter in backbone.model.named_parameters() if parameter.grad is not None}
    all_names = {name for name, _ in backbone.model.named_parameters()}
    assert all_names - trained == {name for name in all_names if name.startswith(tuple(frozen))}
    assert trained


def test_frozen_modules_stay_in_evaluation_mode():
    backbone = make(frozen=["stages.0"], drop_path_rate=0.5).train()
    assert not any(module.training for module in backbone.model.stages[0].modules())
    assert all(module.training for module in backbone.model.stages[1].modules())


def test_the_whole_network_can_be_frozen():
    backbone = make(frozen=[""], norm_outputs=True).train()
    assert {name.partition(".")[0] for name, parameter in backbone.named_parameters() if parameter.requires_grad} == {
        "norms"
    }
    assert not backbone.model.training


@pytest.mark.parametrize("freeze", [True, False])
def test_freeze_batch_norm_keeps_statistics_and_weights(freeze):
    backbone = make("test_resnet", [1], freeze_batch_norm=freeze).train()
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(random_images(32, 32, batch=2))["stage1"].sum().backward()
    changed = [name for name, buffer in backbone.named_buffers() if not torch.equal(buffer, before[name])]
    assert bool(changed) is not freeze
    assert (backbone.model.bn1.weight.grad is None) is freeze
    assert backbone.model.conv1[0].weight.grad.any()


def test_drop_path_drops_branches_in_training_only():
    images = random_images(32, 32, batch=8)
    plain, dropping = make().train(), make(drop_path_rate=0.5).train()
    assert_close(plain(images), plain(images))
    assert not torch.equal(dropping(images)["stage3"], dropping(images)["stage3"])
    assert_close(dropping.eval()(images), plain.eval()(images))


def test_the_drop_path_rate_of_swin_comes_from_the_argument_and_not_from_timm():
    assert not [module for module in make(SWIN, [0]).modules() if getattr(module, "drop_prob", 0)]
    rates = [module.drop_prob for module in make(SWIN, drop_path_rate=0.2).modules() if getattr(module, "drop_prob", 0)]
    assert max(rates) == pytest.approx(0.2)


def test_outputs_can_be_normalised():
    maps = make(norm_outputs=True)(random_images(64, 64))
    for level in maps.values():
        assert_close(level.mean(1), torch.zeros_like(level[:, 0]), atol=1e-5, rtol=0)
        assert_close(level.var(1, correction=0), torch.ones_like(level[:, 0]), atol=1e-2, rtol=0)


def test_layer_norm_of_maps_normalises_each_cell():
    torch.manual_seed(0)
    cells = nn.LayerNorm(6)
    nn.init.normal_(cells.weight)
    nn.init.normal_(cells.bias)
    maps = LayerNorm2d(6)
    maps.load_state_dict(cells.state_dict())
    x = torch.randn(2, 6, 3, 5)
    assert_close(maps(x), cells(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("model_name", ["test_convnext", SWIN, "test_vit"])
def test_activation_checkpointing_gives_the_same_gradients(model_name):
    gradients, passes = [], []
    for switch in (False, True):
        backbone = make(model_name, [-1], activation_checkpointing=switch).train()
        calls = []
        some_layer = next(module for module in backbone.modules() if isinstance(module, nn.Linear))
        some_layer.register_forward_hook(lambda *_, calls=calls: calls.append(None))
        sum(level.square().sum() for level in backbone(random_images(32, 32)).values()).backward()
        gradients.append({name: parameter.grad for name, parameter in backbone.named_parameters()})
        passes.append(len(calls))
    assert_close(gradients[1], gradients[0])
    assert passes == [1, 2]


def with_names_of_authors(state, model_name):
    """timm's weights of a Swin or ConvNeXt with the names in the files of their authors."""
    renamed = {}
    for name, value in state.items():
        if model_name == SWIN:
            name = re.sub(r"layers\.(\d)\.downsample", lambda n: f"layers.{int(n[1]) - 1}.downsample", name)
        else:
            name = re.sub(r"^stem\.", "downsample_layers.0.", name)
            name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
            name = re.sub(r"^stages\.(\d)\.blocks\.", r"stages.\1.", name)
            name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv").replace("head.norm", "norm")
        renamed[name] = value
    if model_name == SWIN:
        renamed["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    return {"model": renamed}


@pytest.mark.parametrize("model_name", ["test_convnext", "test_resnet", SWIN, "test_vit"])
def test_weights_in_timms_format_are_loaded(model_name, tmp_path):
    torch.manual_seed(1)
    source = timm.create_model(model_name)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    backbone = make(model_name, weights=str(tmp_path / "model.safetensors"))
    names = dict(backbone.model.named_parameters())
    assert len(names) > 10
    for name, value in source.named_parameters():
        assert name not in names or torch.equal(names[name], value)


@pytest.mark.parametrize("model_name", ["test_convnext", SWIN, "test_vit"])
def test_weights_in_the_format_of_the_authors_are_loaded(model_name, tmp_path):
    torch.manual_seed(1)
    source = timm.create_model(model_name, num_classes=0)
    state = source.state_dict()
    content = {"model": state} if model_name == "test_vit" else with_names_of_authors(state, model_name)
    torch.save(content, tmp_path / "published.pth")
    backbone = make(model_name, [0, -1], weights=str(tmp_path / "published.pth"))
    for name, value in backbone.model.named_parameters():
        assert torch.equal(value, state[name])


def test_weights_of_another_network_raise_an_error(tmp_path):
    path = str(tmp_path / "other.pth")
    torch.save(timm.create_model("test_vit").state_dict(), path)
    with pytest.raises(ValueError, match=r"other.pth .* test_convnext.*\(KeyError: "):
        make(weights=path)
    with pytest.raises(ValueError, match="different model: 0 of"):
        make("test_resnet", weights=path)
    torch.save({k: v for k, v in timm.create_model("test_vit").state_dict().items() if "blocks.2" not in k}, path)
    with pytest.raises(ValueError, match=r"other.pth .*lacks 12 .*blocks"):
        make("test_vit", [-1], weights=path)
    assert make("test_vit", [1], weights=path).channels == {"stage1": 64}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "swin_tny_patch4_window7_224"}, "timm .* has no model .*'swin_tiny_patch4_wind"),
        ({"model_name": "~"}, r"timm .* has no model '~'.*list_models"),
        (
            {"model_name": "convnext_tiny.fb_in1k"},
            "model_name='convnext_tiny', weights='fb_in1k'",
        ),
        ({"out_indices": [1, 4]}, r"test_convnext has no stage 4.*0 \(stages.0: stride 4, 24 channels\), 1 "),
        ({"out_indices": [-5]}, "has no stage -5.* -1, -2, "),
        ({"out_indices": []}, "at least one stage.*out_indices.*0 "),
        (
            {"weights": "missing.pth"},
            "weights='missing.pth' is neither.*test_convnext",
        ),
        (
            {"model_name": "convnext_tiny", "weights": "fb_in22"},
            "weights='fb_in22' is neither .*'fb_in22k'",
        ),
        (
            {"frozen": ["stages.9"]},
            r"frozen=\['stages.9'\].*no part 'stages.9'.*'stages'",
        ),
        ({"frozen": ["???"]}, r"no part '\?\?\?'.*stem, stages"),
        (
            {"model_name": "legacy_seresnet18", "drop_path_rate": 0.1},
            "drop_path_rate=0.1 must be 0",
        ),
        (
            {"model_name": "legacy_seresnet18", "activation_checkpointing": True},
            "activation_checkpointing .*legacy_seresnet18",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_timm_channels_raises_the_errors_of_the_backbone():
    with pytest.raises(ValueError, match="test_convnext has no stage 4.*0 "):
        timm_channels(model_name="test_convnext", out_indices=[4])


def test_an_error_names_the_command_that_installs_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"package timm.*pip install -U timm"):
        make("test_convnext2")


def test_an_error_names_the_required_version_of_timm(monkeypatch):
    monkeypatch.setattr(timm, "__version__", "1.0.9.dev0")
    with pytest.raises(ImportError, match="timm 1.0.31 or newer.*1.0.9.dev0.*pip install"):
        make()
