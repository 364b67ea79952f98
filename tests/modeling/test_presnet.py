"""ResNet-vd backbones."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.checkpoint import CheckpointError
from detrex_lite.modeling import PResNet, presnet_channels


def on_meta(**arguments):
    with torch.device("meta"):
        return PResNet(**arguments)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_stages_have_their_strides_and_channels(depth):
    model = on_meta(depth=depth, out_features=("res2", "res3", "res4", "res5"), norm="BN").eval()
    maps = model(torch.zeros(1, 3, 70, 97, device="meta"))
    assert {name: level.shape[1] for name, level in maps.items()} == model.channels
    assert [tuple(level.shape[-2:]) for level in maps.values()] == [(18, 25), (9, 13), (5, 7), (3, 4)]


def test_stages_without_outputs_are_not_built():
    model = on_meta(depth=18, out_features=["res3"])
    assert len(model.stages) == 2
    assert presnet_channels(depth=50, out_features=["res3", "res5"]) == {"res3": 512, "res5": 2048}


def test_shortcuts_average_before_the_projection():
    model = PResNet(depth=18, norm="BN", freeze_at=0).eval()
    first, second = model.stages[1]
    assert isinstance(second.shortcut, nn.Identity)
    x = torch.randn(1, 64, 5, 7)
    nn.init.zeros_(first.convs[-1].norm.weight)
    means = nn.functional.avg_pool2d(nn.functional.pad(x, (0, 1, 0, 1), mode="replicate"), 2)
    assert_close(first(x)[..., :2, :3], first.shortcut(means)[..., :2, :3].relu())
    edge = x[:, :, -1:, -1:]  # at the border, the mean covers the existing pixels only
    assert_close(first(x)[..., -1:, -1:], first.shortcut(edge).relu())


@pytest.mark.parametrize("freeze_at", [0, 1, 3])
def test_frozen_parts_are_not_trained(freeze_at):
    model = on_meta(depth=18, norm="BN", freeze_at=freeze_at).train()
    parts = [model.stem, *model.stages]
    assert [not next(part.parameters()).requires_grad for part in parts] == [n < freeze_at for n in range(5)]
    assert [not part.training for part in parts] == [n < freeze_at for n in range(5)]


def test_frozen_norms_are_folded_into_convolutions_and_keep_their_names():
    torch.manual_seed(0)
    frozen, plain = PResNet(depth=18, freeze_at=0), PResNet(depth=18, norm="BN", freeze_at=0).eval()
    for name, value in plain.state_dict().items():
        if "running" in name:
            value.copy_(0.5 + torch.rand_like(value))
    frozen.load_state_dict({k: v for k, v in plain.state_dict().items() if not k.endswith("num_batches_tracked")})
    assert not [name for name, _ in frozen.named_parameters() if "norm" in name]
    image = torch.randn(1, 3, 64, 64)
    for name, level in plain(image).items():
        assert_close(frozen(image)[name], level, rtol=1e-4, atol=1e-4)


def test_invalid_arguments_and_weights_raise_an_error(tmp_path):
    with pytest.raises(ValueError, match="depth=152.*18, 34, 50, 101"):
        PResNet(depth=152)
    with pytest.raises(ValueError, match="norm='BM'.*BN"):
        PResNet(depth=18, norm="BM")
    with pytest.raises(ValueError, match="freeze_at=-1 .*0 "):
        PResNet(depth=18, freeze_at=-1)
    with pytest.raises(ValueError, match="'res1'"):
        PResNet(depth=18, out_features=["res1"])
    with pytest.raises(ValueError, match="not a file"):
        PResNet(depth=18, weights=str(tmp_path / "nothing.pth"))
    torch.save(PResNet(depth=34).state_dict(), tmp_path / "r34.pth")
    with pytest.raises(CheckpointError):
        PResNet(depth=50, weights=str(tmp_path / "r34.pth"))
