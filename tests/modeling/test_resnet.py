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
def test_any_stage(depth, widths, images):
    stages = ["res2", "res3", "res4", "res5"]
    backbone = ResNet(depth=depth, out_features=stages).eval()
    assert backbone.channels == dict(zip(stages, widths, strict=True))
    assert resnet_channels(depth=depth, out_features=["res5", "res3"]) == {"res3": widths[1], "res5": widths[3]}
    shapes = {name: tuple(feature.shape) for name, feature in backbone(images).items()}
    assert shapes == {
        name: (1, width, 16 >> level, 16 >> level)
        for level, (name, width) in enumerate(zip(stages, widths, strict=True))
    }


def test_agrees_with_torchvision(images):
    theirs = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d).eval()
    ours = ResNet(depth=18, out_features=["res3", "res5"]).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    res3 = theirs.layer2(theirs.layer1(x))
    res5 = theirs.layer4(theirs.layer3(res3))
    got = ours(images)
    assert_close(got["res3"], res3)
    assert_close(got["res5"], res5)


def test_a_norm_without_a_convolution_before_it_is_applied_by_itself():
    """The first child of a block, or one that is called outside of it."""
    torch.manual_seed(0)
    block = torch.nn.Sequential(FoldedBatchNorm2d(4), torch.nn.Conv2d(4, 4, 1, bias=False), FoldedBatchNorm2d(4))
    plain = torch.nn.Sequential(FrozenBatchNorm2d(4), torch.nn.Conv2d(4, 4, 1, bias=False), FrozenBatchNorm2d(4))
    for buffer in block.buffers():
        torch.nn.init.uniform_(buffer, 0.5, 1.5)
    plain.load_state_dict(block.state_dict())
    x = torch.randn(1, 4, 3, 3)
    assert_close(block(x), plain(x))  # before anything is folded
    fold_norms(block)
    for one in (block, copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert [norm.is_folded for norm in one if isinstance(norm, FoldedBatchNorm2d)] == [False, True]
        assert_close(one(x), plain(x))


def test_folding_the_frozen_norm_is_exact_and_trains_the_same(images):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d).double()
    for name, buffer in theirs.named_buffers():
        torch.nn.init.uniform_(buffer, 0.5 if name.endswith(("weight", "var")) else -0.5, 1.5)
    ours = ResNet(depth=50, out_features=["res3"], freeze_at=0).double()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in ours.state_dict()})
    copied = copy.deepcopy(ours)
    x = images.double()
    want = theirs.layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))))
    want.square().sum().backward()
    weights = dict(theirs.named_parameters())
    for model in (ours, copied):
        got = model(x)["res3"]
        assert_close(got, want)
        got.square().sum().backward()
        for name, parameter in model.named_parameters():
            assert_close(parameter.grad, weights[name].grad)


def test_what_is_folded_follows_the_norm_however_it_changes(images):
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
        backbone(images)  # what is kept of it must do for training, too
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
    "duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"]
)
def test_a_copy_does_not_take_the_changes_of_its_norms_for_those_of_the_original(images, duplicate):
    backbone = ResNet(depth=18, freeze_at=0).eval()
    state = backbone.state_dict()
    for _ in range(3):
        backbone.load_state_dict(copy.deepcopy(state))
    changed = {name: value + 0.1 for name, value in state.items()}
    with torch.no_grad():
        backbone(images)
        fresh = ResNet(depth=18, freeze_at=0).eval()
        fresh.load_state_dict(changed)
        for changes in range(1, 5):  # one of these is as often as the original's buffers were changed
            other = duplicate(backbone)
            for _ in range(changes):
                other.load_state_dict(changed)
            assert_close(other(images)["res5"], fresh(images)["res5"])


def test_stages_that_nothing_needs_are_not_built(images):
    backbone = ResNet(depth=18, out_features=["res3"])
    assert list(backbone(images)) == ["res3"]
    assert not [name for name, _ in backbone.named_parameters() if name.startswith(("layer3", "layer4"))]


def test_dc5_keeps_the_resolution(images):
    backbone = ResNet(depth=50, dilation=True).eval()
    assert backbone(images)["res5"].shape == (1, 2048, 4, 4)


@pytest.mark.parametrize(("freeze_at", "first_trained"), [(0, "conv1"), (1, "layer1"), (2, "layer2"), (5, None)])
def test_freeze_at(freeze_at, first_trained):
    backbone = ResNet(depth=18, freeze_at=freeze_at)
    trained = [name.split(".")[0] for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert (trained[0] if trained else None) == first_trained
    if first_trained:
        assert "layer4" in trained


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
def test_norms_train(norm):
    backbone = ResNet(depth=18, out_features=["res2"], norm=norm, freeze_at=0)
    backbone(torch.randn(2, 3, 32, 32))["res2"].sum().backward()
    assert backbone.conv1.weight.grad.abs().sum() > 0
    assert (backbone.bn1.weight.requires_grad) is (norm != "FrozenBN")


def test_frozen_batch_norm_keeps_its_statistics():
    backbone = ResNet(depth=18, out_features=["res3"], norm="BN", freeze_at=2).train()
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 32, 32))
    moved = {name.split(".")[0] for name, buffer in backbone.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == {"layer2"}


def test_weights_from_a_file(tmp_path):
    source = torchvision.models.resnet18()
    torch.nn.init.uniform_(source.bn1.running_mean)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    backbone = ResNet(depth=18, out_features=["res3"], weights=str(tmp_path / "resnet18.pth"))
    assert_close(backbone.bn1.running_mean, source.bn1.running_mean)
    assert_close(backbone.layer2[1].conv2.weight, source.layer2[1].conv2.weight)


def test_weights_of_another_depth_are_refused(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=r"resnet18.pth .*lacks \d+ of the model's tensors"):
        ResNet(depth=34, weights=str(tmp_path / "resnet18.pth"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 51}, "ResNet depth=51; choices: 18, 34, 50, 101, 152"),
        ({"out_features": ["res55"]}, "no stage 'res55'; did you mean 'res5'"),
        ({"out_features": []}, "out_features is empty"),
        ({"norm": "FrozenBn"}, "norm='FrozenBn'; did you mean 'FrozenBN'"),
        ({"freeze_at": 6}, "freeze_at=6 is outside 0"),
        ({"depth": 18, "dilation": True}, "needs bottleneck blocks"),
        ({"depth": 18, "weights": "DEFAULTS"}, "neither a file nor .* did you mean 'DEFAULT'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)
