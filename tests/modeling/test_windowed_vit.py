import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.checkpoint import CheckpointError, load_checkpoint
from detrex_lite.modeling import WindowedViT, vit_channels

SMALL = {
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
    "hidden_dim": 24,
    "num_windows": 2,
    "global_blocks": [1],
    "out_blocks": [0, 2],
    "patch_size": 8,
    "pretrain_image_size": 32,
}
DINOV2 = {"class_token": True, "key_bias": True, "layer_scale": 1.0, "output_norm": True, "antialias": True}
KINDS = {"cae": {}, "dinov2": DINOV2}


def make(kind="cae", **arguments):
    torch.manual_seed(0)
    network = WindowedViT(**{**SMALL, **KINDS[kind], **arguments})
    for parameter in network.parameters():  # the initial values would hide mistakes
        nn.init.normal_(parameter, std=0.3)
    return network.double().eval()


def random_images(height, width, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_independent_without_a_global_block(kind):
    network = make(kind, depth=1, global_blocks=[], out_blocks=[0])
    images = random_images(32, 64)
    changed = images.clone()
    changed[:, :, :16, 32:] += 1.0  # the second window of the first row
    difference = (network(changed)["block0"] - network(images)["block0"]).abs().amax((0, 1))
    assert difference.shape == (4, 8)
    assert (difference[:2, 4:] > 1e-6).all()
    difference[:2, 4:] = 0.0
    assert_close(difference, torch.zeros(4, 8, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_global_block_attends_to_all_tokens(kind):
    network = make(kind, depth=1, global_blocks=[0], out_blocks=[0])
    images = random_images(32, 64)
    changed = images.clone()
    changed[:, :, :8, :8] += 1.0
    assert ((network(changed)["block0"] - network(images)["block0"]).abs().amax(1) > 1e-9).all()


def test_global_blocks_do_not_depend_on_the_number_of_windows():
    """Without class tokens, which exist in each window, windows change only the order of tokens."""
    images = random_images(32, 64)
    networks = [make(num_windows=number, global_blocks=[0, 1, 2]) for number in (1, 2, 4)]
    for network in networks[1:]:
        network.load_state_dict(networks[0].state_dict())
        assert_close(network(images), networks[0](images))


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_size_are_padded_to_whole_windows(kind):
    network = make(kind)
    images = random_images(20, 37)
    maps = network(images)
    assert {name: tuple(level.shape) for name, level in maps.items()} == dict.fromkeys(
        ("block0", "block2"), (2, 16, 3, 5)
    )
    padded = torch.zeros(2, 3, 32, 48, dtype=torch.float64)
    padded[..., :20, :37] = images
    assert_close(maps, {name: level[..., :3, :5] for name, level in network(padded).items()})


def test_activation_checkpointing_gives_the_same_gradients():
    images = random_images(32, 32)
    gradients = []
    for recompute in (False, True):
        network = make("dinov2", activation_checkpointing=recompute).train()
        torch.stack([level.square().sum() for level in network(images).values()]).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert_close(*gradients)
    assert all(gradient is not None for gradient in gradients[0].values())


def test_drop_path_acts_in_training_only():
    network = make(drop_path_rate=0.9)
    images = random_images(32, 32)
    assert_close(network(images), network(images))
    network.train()
    assert (network(images)["block2"] != network(images)["block2"]).any()


def test_channels_are_known_from_the_arguments():
    assert make().channels == vit_channels(embed_dim=16, out_blocks=[2, 0]) == {"block0": 16, "block2": 16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_blocks": [3]}, r"global_blocks=\[3\]"),
        ({"out_blocks": [-1, 2]}, r"out_blocks=\[-1, 2\]"),
        ({"out_blocks": [0, 1]}, r"out_blocks=\[0, 1\].* 2"),
        ({"num_heads": 3}, "embed_dim=16.*num_heads=3"),
        ({"num_windows": 0}, "num_windows=0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0"),
        ({"weights": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_invalid_arguments_raise_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        WindowedViT(**{**SMALL, **arguments})


def arguments_without_windows():
    """Arguments of a DINOv2 without windows, for images of the size that its weights were trained with."""
    return {**DINOV2, "num_windows": 1, "global_blocks": [0, 1, 2], "hidden_dim": 64}


def test_outputs_agree_with_dinov2_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5")
    config = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        mlp_ratio=4,
        image_size=32,
        patch_size=8,
        out_features=["stage1", "stage3"],
    )
    torch.manual_seed(0)
    reference = transformers.Dinov2Backbone(config).double().eval()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.3)
    torch.save(reference.state_dict(), tmp_path / "dinov2.pth")
    network = (
        WindowedViT(**{**SMALL, **arguments_without_windows()}, weights=str(tmp_path / "dinov2.pth")).double().eval()
    )
    images = random_images(32, 32)
    with torch.no_grad():
        network(images)
        load_checkpoint(network, reference.state_dict())  # in float64
        assert_close(list(network(images).values()), list(reference(images).feature_maps))


def test_outputs_agree_with_dinov2_of_timm():
    timm = pytest.importorskip("timm", reason="the package timm is not installed")
    torch.manual_seed(0)
    reference = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, init_values=1.0, num_classes=0, global_pool=""
    )
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.3)
    network, reference = (
        WindowedViT(**{**SMALL, **arguments_without_windows()}).double().eval(),
        reference.double().eval(),
    )
    report = load_checkpoint(network, reference.state_dict())
    assert (report.key_map, report.missing, report.unexpected) == ("dinov2", [], [])
    images = random_images(32, 32)
    with torch.no_grad():
        assert_close(network(images)["block2"].flatten(2).transpose(1, 2), reference(images)[:, 1:])


def test_weights_of_another_depth_raise_an_error(tmp_path):
    torch.save({"encoder." + name: value for name, value in make(depth=3).state_dict().items()}, tmp_path / "vit.pth")
    # LW-DETR's authors publish weights with the prefix "encoder.".
    network = WindowedViT(**SMALL, weights=str(tmp_path / "vit.pth"))
    assert_close(network.state_dict(), {name: value.float() for name, value in make().state_dict().items()})
    with pytest.raises(CheckpointError, match=r"vit\.pth"):
        WindowedViT(**{**SMALL, "depth": 4, "out_blocks": [3]}, weights=str(tmp_path / "vit.pth"))
