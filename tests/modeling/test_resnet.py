import copy
import pickle

import pytest
import torch
import torchvision
from torch.testing import assert_close
from torchvision.ops import FrozenBatchNorm2d

from detrex_lite.modeling import ResNet, resnet_channels
from detrex_lite.modeling.backbone.folded_norm import FoldedBatchNorm2d, fold_norms


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(1, 3, 64, 64)


@pytest.mark.parametrize(("depth", "widths"), [(18, [64, 128, 256, 512]), (50, [256, 512, 1024, 2048])])
def test_any_stage_can_be_an_output(depth, widths, images):
    stages = ["res2", "res3", "res4", "res5"]
    backbone = ResNet(depth=depth, out_features=stages).eval()
    assert backbone.channels == dict(zip(stages, widths, strict=True))
    assert resnet_channels(depth=depth, out_features=["res5", "res3"]) == {"res3": widths[1], "res5": widths[3]}
    shapes = {name: tuple(feature.shape) for name, feature in backbone(images).items()}
    assert shapes == {
        name: (1, width, 16 >> level, 16 >> level)
        for level, (name, width) in enumerate(zip(stages, widths, strict=True))
    }


def test_outputs_agree_with_torchvision(images):
    torchvision_resnet = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d).eval()
    backbone = ResNet(depth=18, out_features=["res3", "res5"]).eval()
    backbone.load_state_dict({k: v for k, v in torchvision_resnet.state_dict().items() if not k.startswith("fc.")})
    x = torchvision_resnet.maxpool(torchvision_resnet.relu(torchvision_resnet.bn1(torchvision_resnet.conv1(images))))
    res3 = torchvision_resnet.layer2(torchvision_resnet.layer1(x))
    res5 = torchvision_resnet.layer4(torchvision_resnet.layer3(res3))
    actual = backbone(images)
    assert_close(actual["res3"], res3)
    assert_close(actual["res5"], res5)


def test_a_norm_without_a_preceding_convolution_is_not_folded():
    """The first norm of the block has no preceding convolution, so that it is not folded."""
    torch.manual_seed(0)
    block = torch.nn.Sequential(FoldedBatchNorm2d(4), torch.nn.Conv2d(4, 4, 1, bias=False), FoldedBatchNorm2d(4))
    plain = torch.nn.Sequential(FrozenBatchNorm2d(4), torch.nn.Conv2d(4, 4, 1, bias=False), FrozenBatchNorm2d(4))
    for buffer in block.buffers():
        torch.nn.init.uniform_(buffer, 0.5, 1.5)
    plain.load_state_dict(block.state_dict())
    x = torch.randn(1, 4, 3, 3)
    assert_close(block(x), plain(x))  # before folding
    fold_norms(block)
    for module in (block, copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert [norm.is_folded for norm in module if isinstance(norm, FoldedBatchNorm2d)] == [False, True]
        assert_close(module(x), plain(x))


def test_folding_frozen_norms_keeps_outputs_and_gradients(images):
    torch.manual_seed(0)
    torchvision_resnet = torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d).double()
    for name, buffer in torchvision_resnet.named_buffers():
        torch.nn.init.uniform_(buffer, 0.5 if name.endswith(("weight", "var")) else -0.5, 1.5)
    backbone = ResNet(depth=50, out_features=["res3"], freeze_at=0).double()
    backbone.load_state_dict({k: v for k, v in torchvision_resnet.state_dict().items() if k in backbone.state_dict()})
    copied = copy.deepcopy(backbone)
    x = images.double()
    expected = torchvision_resnet.layer2(
        torchvision_resnet.layer1(
            torchvision_resnet.maxpool(torchvision_resnet.relu(torchvision_resnet.bn1(torchvision_resnet.conv1(x))))
        )
    )
    expected.square().sum().backward()
    weights = dict(torchvision_resnet.named_parameters())
    for model in (backbone, copied):
        actual = model(x)["res3"]
        assert_close(actual, expected)
        actual.square().sum().backward()
        for name, parameter in model.named_parameters():
            assert_close(parameter.grad, weights[name].grad)


def test_folded_weights_follow_all_changes_of_the_norm(images):
    torch.manual_seed(0)
    backbone = ResNet(depth=18, freeze_at=0).eval()
    fresh = ResNet(depth=18, freeze_at=0).eval()

    def agree(dtype=torch.float32):
        fresh.to(dtype).load_state_dict(backbone.state_dict())
        for norm in fresh.modules():
            if isinstance(norm, FoldedBatchNorm2d):
                norm._cache = None
        with torch.no_grad():
            assert_close(backbone(images.to(dtype))["res5"], fresh(images.to(dtype))["res5"])

    with torch.inference_mode():
        backbone(images)  # tensors cached in inference mode must not break training
    backbone(images)["res5"].sum().backward()
    agree()
    with torch.no_grad():
        backbone.bn1.running_var.mul_(4.0)
    agree()
    backbone.layer1[0].bn1.bias = torch.randn(64)
    agree()
    backbone.load_state_dict({name: value + 0.5 for name, value in backbone.state_dict().items()})
    agree()
    backbone.double()
    agree(torch.float64)
    with torch.inference_mode():
        backbone.bn1.weight = backbone.bn1.weight + 1
        agree(torch.float64)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["copy", "pickle"]
)
def test_a_copy_recomputes_folded_weights_after_changes_of_its_norms(images, duplicate):
    backbone = ResNet(depth=18, freeze_at=0).eval()
    state = backbone.state_dict()
    for _ in range(3):
        backbone.load_state_dict(copy.deepcopy(state))
    changed = {name: value + 0.1 for name, value in state.items()}
    with torch.no_grad():
        backbone(images)
        fresh = ResNet(depth=18, freeze_at=0).eval()
        fresh.load_state_dict(changed)
        for changes in range(1, 5):  # one of these numbers equals the changes of the original's buffers
            duplicated = duplicate(backbone)
            for _ in range(changes):
                duplicated.load_state_dict(changed)
            assert_close(duplicated(images)["res5"], fresh(images)["res5"])


def test_stages_without_outputs_are_not_built(images):
    backbone = ResNet(depth=18, out_features=["res3"])
    assert list(backbone(images)) == ["res3"]
    assert not [name for name, _ in backbone.named_parameters() if name.startswith(("layer3", "layer4"))]


def test_dc5_keeps_the_resolution(images):
    backbone = ResNet(depth=50, dilation=True).eval()
    assert backbone(images)["res5"].shape == (1, 2048, 4, 4)


@pytest.mark.parametrize(("freeze_at", "first_trained"), [(0, "conv1"), (1, "layer1"), (2, "layer2"), (5, None)])
def test_freeze_at_selects_the_first_trained_stage(freeze_at, first_trained):
    backbone = ResNet(depth=18, freeze_at=freeze_at)
    trained = [name.split(".")[0] for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert (trained[0] if trained else None) == first_trained
    if first_trained:
        assert "layer4" in trained


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
def test_all_norms_train_the_convolutions(norm):
    backbone = ResNet(depth=18, out_features=["res2"], norm=norm, freeze_at=0)
    backbone(torch.randn(2, 3, 32, 32))["res2"].sum().backward()
    assert backbone.conv1.weight.grad.abs().sum() > 0
    assert (backbone.bn1.weight.requires_grad) is (norm != "FrozenBN")


def test_frozen_batch_norm_keeps_its_statistics():
    backbone = ResNet(depth=18, out_features=["res3"], norm="BN", freeze_at=2).train()
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 32, 32))
    changed = {name.split(".")[0] for name, buffer in backbone.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed == {"layer2"}


def test_weights_are_loaded_from_a_file(tmp_path):
    source = torchvision.models.resnet18()
    torch.nn.init.uniform_(source.bn1.running_mean)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    backbone = ResNet(depth=18, out_features=["res3"], weights=str(tmp_path / "resnet18.pth"))
    assert_close(backbone.bn1.running_mean, source.bn1.running_mean)
    assert_close(backbone.layer2[1].conv2.weight, source.layer2[1].conv2.weight)


def test_weights_of_another_depth_raise_an_error(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=r"resnet18.pth .*lacks \d+"):
        ResNet(depth=34, weights=str(tmp_path / "resnet18.pth"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 51}, "depth=51.*18, 34, 50, 101, 152"),
        ({"out_features": ["res55"]}, "no stage 'res55'.*'res5'"),
        ({"out_features": []}, "out_features.*empty"),
        ({"norm": "FrozenBn"}, "norm='FrozenBn'.*'FrozenBN'"),
        ({"freeze_at": 6}, "freeze_at=6.*outside"),
        ({"depth": 18, "dilation": True}, "bottleneck blocks"),
        ({"depth": 18, "weights": "DEFAULTS"}, "neither a file nor .*'DEFAULT'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)
