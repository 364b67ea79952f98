import pytest
import torch
from torch import nn

from detrex_lite.config import get_config, instantiate
from detrex_lite.engine import adamw, get_param_groups
from detrex_lite.engine.build import build_optimizer
from detrex_lite.engine.loop.optim import LayerDecay


class Model(nn.Module):
    """A backbone with a frozen layer, a norm, and two heads that share their weight."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.LayerNorm(4))
        self.backbone[0].requires_grad_(False)
        self.neck = nn.Linear(4, 5)
        self.head, self.other_head = nn.Linear(5, 6), nn.Linear(5, 6)
        self.other_head.weight = self.head.weight


def names_of(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[p] for p in group["params"]] for group in groups]


def test_the_default_group_has_each_trainable_parameter_once():
    model = Model()
    groups = get_param_groups(model)
    expected = [
        "backbone.1.weight",
        "backbone.1.bias",
        "backbone.2.weight",
        "backbone.2.bias",
        "neck.weight",
        "neck.bias",
        "head.weight",
        "head.bias",
        "other_head.bias",
    ]
    assert names_of(model, groups) == [expected]
    assert groups[0].keys() == {"params"}


def test_parameters_are_grouped_by_settings_in_their_order():
    model = Model()
    groups = get_param_groups(model, base_lr=1.0, backbone_lr_factor=0.1, weight_decay_norm=0.0)
    settings = [(group["lr"], group.get("weight_decay")) for group in groups]
    assert settings == [(0.1, None), (0.1, 0.0), (1.0, None)]
    assert names_of(model, groups)[1] == ["backbone.2.weight", "backbone.2.bias"]


def test_the_last_matching_factor_is_multiplied_by_the_function():
    model = Model()
    groups = get_param_groups(
        model,
        base_lr=1.0,
        backbone_lr_factor=0.1,
        lr_factors={"head": 0.5, r"^backbone\.2": 0.25, r"^other_head": 2.0},
        lr_factor_func=lambda name: 10.0 if name.endswith("bias") else 1.0,
    )
    rates = {name: group["lr"] for group, names in zip(groups, names_of(model, groups), strict=True) for name in names}
    assert rates == pytest.approx(
        {
            "backbone.1.weight": 0.1,
            "backbone.1.bias": 1.0,
            "backbone.2.weight": 0.25,
            "backbone.2.bias": 2.5,
            "neck.weight": 1.0,
            "neck.bias": 10.0,
            "head.weight": 0.5,
            "head.bias": 5.0,
            "other_head.bias": 20.0,
        }
    )


def test_a_module_whose_name_only_ends_in_backbone_is_not_the_backbone():
    model = nn.ModuleDict({"backbone_projection": nn.Linear(1, 1), "backbone": nn.Linear(1, 1)})
    groups = get_param_groups(model, base_lr=1.0, backbone_lr_factor=0.1)
    assert [group["lr"] for group in groups] == [1.0, 0.1]


def test_a_factor_of_frozen_parameters_only_is_accepted():
    groups = get_param_groups(Model(), base_lr=1.0, lr_factors={r"^backbone\.0": 0.1})
    assert [group["lr"] for group in groups] == [1.0]


def test_a_pattern_that_matches_nothing_raises():
    with pytest.raises(ValueError, match=r"'bakbone' matches no parameter; .*: backbone, head, neck"):
        get_param_groups(Model(), base_lr=1.0, lr_factors={"bakbone": 0.1})


def test_a_backbone_factor_without_a_backbone_raises():
    with pytest.raises(ValueError, match="matches no parameter"):
        get_param_groups(nn.Linear(1, 1), base_lr=1.0, backbone_lr_factor=0.1)


def test_factors_without_base_lr_or_below_zero_raise():
    with pytest.raises(ValueError, match="factors need base_lr"):
        get_param_groups(Model(), backbone_lr_factor=0.1)
    with pytest.raises(ValueError, match="of 'head' is negative"):
        get_param_groups(Model(), base_lr=1.0, lr_factors={"head": -1.0})


def test_a_model_without_trainable_parameters_raises():
    with pytest.raises(ValueError, match="no trainable parameter"):
        get_param_groups(Model().requires_grad_(False))


def test_fused_adamw_takes_the_same_steps_as_the_plain_loop():
    weights = []
    for fused in (None, False):
        parameter = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        optimizer = adamw([parameter], lr=0.1, weight_decay=0.1, fused=fused)
        assert bool(optimizer.defaults["fused"]) == (fused is None)
        for _ in range(3):
            parameter.grad = parameter.detach() * 0.5
            optimizer.step()
        weights.append(parameter.detach())
    torch.testing.assert_close(*weights)


def test_adamw_keeps_the_settings_of_groups():
    model = Model()
    optimizer = adamw(get_param_groups(model, base_lr=1.0, weight_decay_norm=0.0), lr=1.0, weight_decay=0.2)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]


def test_group_rates_of_the_shipped_config_follow_its_learning_rate():
    cfg = get_config("common/optim.py").AdamW
    cfg.lr = 0.5
    cfg.params.backbone_lr_factor = 0.1
    optimizer = build_optimizer(cfg, Model())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5])


def test_the_shipped_config_builds_as_in_detectron2():
    cfg = get_config("common/optim.py").AdamW
    cfg.params.model = Model()
    optimizer = instantiate(cfg)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["lr"] == 1e-4
    assert optimizer.defaults["betas"] == (0.9, 0.999)


def test_layer_decay_lowers_the_rate_of_earlier_blocks():
    decay = LayerDecay(rate=0.5, num_layers=3)
    assert [decay(f"backbone.net.blocks.{n}.attn.proj.weight") for n in range(3)] == [1 / 8, 1 / 4, 1 / 2]
    assert decay("backbone.net.pos_embed") == decay("backbone.net.patch_embed.proj.bias") == 1 / 16
    assert decay("backbone.simfp_3.0.weight") == decay("heads.blocks.0.weight") == 1
    with pytest.raises(ValueError, match=r"num_layers=3 .*blocks\.3\."):
        decay("backbone.net.blocks.3.norm1.weight")
    for rate in (0, 1.5):
        with pytest.raises(ValueError, match=f"got {rate}"):
            LayerDecay(rate=rate, num_layers=3)


def test_weight_decays_by_pattern_combine_with_factors():
    model = Model()
    groups = get_param_groups(
        model,
        base_lr=1.0,
        backbone_lr_factor=0.1,
        weight_decay_norm=0.0,
        weight_decays={r"\.bias$": 0.0, r"^backbone\.2\.bias": 0.5},
    )
    settings = {
        name: (group["lr"], group.get("weight_decay"))
        for group, names in zip(groups, names_of(model, groups), strict=True)
        for name in names
    }
    assert settings == {
        "backbone.1.weight": (0.1, None),
        "backbone.1.bias": (0.1, 0.0),
        "backbone.2.weight": (0.1, 0.0),  # a norm
        "backbone.2.bias": (0.1, 0.5),  # the last matching expression applies
        "neck.weight": (1.0, None),
        "neck.bias": (1.0, 0.0),
        "head.weight": (1.0, None),
        "head.bias": (1.0, 0.0),
        "other_head.bias": (1.0, 0.0),
    }


def test_the_log_counts_the_matches_of_each_pattern(caplog):
    with caplog.at_level("INFO"):
        get_param_groups(Model(), base_lr=1.0, lr_factors={"^backbone": 0.1}, weight_decays={r"\.bias$": 0.0})
    factor, decay = [record.getMessage() for record in caplog.records]
    # Linear layers of 2 x 3 + 3 and 3 x 4 + 4, and a norm of 4 + 4.
    assert "0.1 of '^backbone' is for 6 tensors with 33 parameters" in factor
    assert r"weight decay 0 of '\\.bias$' is for 6 tensors" in decay


def test_published_patterns_are_matched_literally(caplog):
    """The published `(?!.*norm|bn)` excludes `bn` only at the very start, and so matches batch norms called `bn`."""
    model = nn.Module()
    model.backbone = nn.ModuleDict({"conv": nn.Conv2d(1, 1, 1, bias=False), "bn": nn.BatchNorm2d(1)})
    model.head = nn.Linear(1, 1)
    as_published, as_intended = r"^(?=.*backbone)(?!.*norm|bn)", r"^(?=.*backbone)(?!.*(?:norm|bn))"
    for pattern, expected in ((as_published, 3), (as_intended, 1)):
        groups = get_param_groups(model, base_lr=1.0, lr_factors={pattern: 0.5})
        assert [len(group["params"]) for group in groups if group["lr"] == 0.5] == [expected]


def test_invalid_weight_decays_raise():
    with pytest.raises(ValueError, match="the weight decay -0.1 of 'head' is negative"):
        get_param_groups(Model(), weight_decays={"head": -0.1})
    with pytest.raises(ValueError, match="the weight decay 0 of 'hed' matches no parameter"):
        get_param_groups(Model(), weight_decays={"hed": 0})
    with pytest.raises(ValueError, match=r"'\(head'.* not a regular expression: missing \)"):
        get_param_groups(Model(), weight_decays={"(head": 0})
