import pickle
import re

import pytest
from omegaconf import OmegaConf
from torch import nn, optim

from detrex_lite.config import ConfigError, validate
from detrex_lite.config import LazyCall as L
from detrex_lite.config.validation import unread_keys


def faults_of(values, **kwargs):
    cfg = OmegaConf.create(values, flags={"allow_objects": True})
    try:
        validate(cfg, **kwargs)
    except ConfigError as error:
        return error.faults
    return []


def positional_only(a, /, b=1):
    pass


def open_ended(*args, **kwargs):
    pass


def test_a_valid_config_has_no_faults():
    values = {
        "model": L(nn.Linear)(in_features="${size}", out_features=2),
        "size": 3,
        "same": "${model}",
        "free": L(open_ended)(anything=1, _args_=[1, 2]),
        "partly": L(nn.Linear)(in_features=2, _partial_=True),
        "built_in": L("itertools.repeat")(_args_=[1, 2]),
    }
    assert faults_of(values) == []


def test_all_faults_are_reported_at_once():
    faults = faults_of(
        {
            "model": L(nn.Linear)(in_feature=1, out_features="${nowhere.x}", bias="???"),
            "parts": [L("torch.nn.Lineer")(), L("torchh.nn.Linear")(), {"deep": L("math.pi")()}],
        }
    )
    patterns = [
        r"model\.out_features: .*'nowhere\.x' not found",
        r"model\.bias: .*no value.*\?\?\?",
        r"model\.in_feature: torch\.nn\.Linear has no argument 'in_feature'; .*'in_features'",
        r"model\.in_features: torch\.nn\.Linear needs",
        r"parts\.0\._target_: torch\.nn has no attribute 'Lineer'; .*'Linear'",
        r"parts\.1\._target_: 'torchh\.nn\.Linear': .*no module 'torchh'; .*'torch'",
        r"parts\.2\.deep\._target_: 3\.141592653589793 cannot be called",
    ]
    assert len(faults) == len(patterns)
    assert all(re.match(pattern, fault) for pattern, fault in zip(patterns, faults, strict=True)), faults


def test_the_message_lists_the_faults():
    with pytest.raises(ConfigError, match=r"2 faults in the config:\n  - a: has no value yet.*\n  - b: ") as caught:
        validate(OmegaConf.create({"a": "???", "b": "???"}))
    assert pickle.loads(pickle.dumps(caught.value)).faults == caught.value.faults


def test_positional_arguments_are_counted():
    faults = faults_of(
        {
            "too_many": L(nn.ReLU)(_args_=[True, 1]),
            "twice": L(nn.Linear)(_args_=[1, 2], in_features=3),
            "by_name": L(positional_only)(a=1),
            "good": L(positional_only)(_args_=[1], b=2),
        }
    )
    assert re.match(r"too_many\._args_: torch\.nn\.ReLU .* 1 positional arguments, not 2", faults[0])
    assert re.match(r"twice\.in_features: torch\.nn\.Linear .*twice.*_args_", faults[1])
    assert "positional_only has no argument 'a'" in faults[2]
    assert len(faults) == 3


def test_run_time_values_are_not_required():
    values = {
        "optimizer": L(optim.AdamW)(params=L(open_ended)(), lr=1),
        "linear": L(nn.Linear)(in_features="???"),
    }
    assert faults_of({"optimizer": L(optim.AdamW)(params=L(nn.Sequential)(model="???"))}) == [
        "optimizer.params.model: torch.nn.Sequential has no argument 'model'"
    ]
    assert faults_of(values, late=("linear.in_features", "linear.out_features")) == []
    assert faults_of({"optimizer": {"params": L(nn.ModuleList)(modules=1)}}, late=()) == []


def make_parameters(model, decay=0.0):
    return model


def test_the_model_of_the_optimizer_is_a_run_time_value_by_default():
    values = {"optimizer": L(optim.AdamW)(params=L(make_parameters)(), lr=1)}
    assert faults_of(values) == []
    assert faults_of(values, late=()) == [f"optimizer.params.model: {__name__}.make_parameters needs this argument"]


def test_faults_of_a_subconfig_have_the_full_key():
    cfg = OmegaConf.create({"a": {"b": [{"c": "???"}]}})
    with pytest.raises(ConfigError, match=r"^a\.b\.0\.c: has no value yet"):
        validate(cfg.a.b)


def test_interpolated_nodes_are_checked_once_under_their_key():
    cfg = OmegaConf.create({"a": {"x": "${b}", "y": "${b}"}, "b": L(nn.ReLU)(inplac=1)}, flags={"allow_objects": True})
    with pytest.raises(ConfigError, match=r"^b\.inplac: torch\.nn\.ReLU has no argument"):
        validate(cfg.a)


@pytest.mark.parametrize(
    "values", [{"a": "${b}", "b": "${a}"}, {"a": {"b": "${a}"}}, {"a": {"x": "${b}"}, "b": {"y": "${a}"}}]
)
def test_circular_interpolations_are_faults(values):
    assert faults_of(values)


def test_faults_are_in_the_order_of_the_config():
    names = ["zz", "aa", "mm"]
    faults = faults_of({"a": L(nn.ReLU)(**dict.fromkeys(names, 1))})
    assert [fault.partition(":")[0] for fault in faults] == [f"a.{name}" for name in names]


def test_interpolated_targets_and_plain_containers_are_checked():
    values = {
        "name": "torch.nn.ReLU",
        "good": {"_target_": "${name}"},
        "bad": {"_target_": "${name}", "inplac": 1},
    }
    assert faults_of(values)[0].startswith("bad.inplac: torch.nn.ReLU has no argument 'inplac'")
    with pytest.raises(ConfigError, match=r"^part\.0\.inplac: torch\.nn\.ReLU has no argument"):
        validate({"part": [L(nn.ReLU)(inplac=1)]})


def test_unbuilt_arguments_are_not_checked():
    assert faults_of(L(nn.ModuleList)(modules=L(nn.Linear)(), _recursive_=False)) == []


def make_part(
    size: int,
    scale: float = 1.0,
    flag: bool = False,
    limit: int | None = None,
    late: "int | float" = 1,
    pair: int | tuple[int, int] = 1,
    name: str = "",
):
    pass


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"size": "three"}, "part.size: 'three' is not a whole number"),
        ({"size": 1.5}, "part.size: 1.5 is not a whole number"),
        ({"size": None}, "part.size: null is not a whole number"),
        ({"size": [1]}, "part.size: [1] is not a whole number"),
        ({"size": 1, "scale": "fast"}, "part.scale: 'fast' is not a number"),
        ({"size": 1, "flag": "maybe"}, "part.flag: 'maybe' is not true or false"),
        ({"size": 1, "limit": "no"}, "part.limit: 'no' is not a whole number"),
        ({"size": 1, "late": "x"}, "part.late: 'x' is not a number"),
    ],
)
def test_values_that_contradict_the_annotation_are_faults(values, fault):
    (actual,) = faults_of({"part": L(make_part)(**values)})
    assert actual.startswith(fault)


def test_values_that_fit_the_annotation_are_accepted():
    part = L(make_part)(size=2.0, scale=1, flag=True, limit=None, late=1.5, pair=[1, 2], name="x")
    assert faults_of({"part": part, "computed": L(make_part)(size=L(len)(_args_=[[1]]))}) == []
    assert faults_of({"optimizer": L(optim.AdamW)(params=1, lr="fast")})[0].startswith("optimizer.lr: 'fast' is not a")


def test_unread_keys_are_faults():
    cfg = OmegaConf.create(
        {
            "model": {"size": "${size.x}", "root": "a/${root}/b", "deep": {"up": "${...above}", "copy": "${.up}"}},
            "train": {"max_epochs": "${detrex_lite.call:detrex_lite.engine.derived.max_epochs}"},
            "size": {"x": 1, "y": "${nested}"},
            "root": "r",
            "above": 1,
            "nested": 2,
            "dataset": {},
            "pretrained": {},
            "_note": {},
            "optimiser": {},
            "hooks": [1],
            "up": 1,
        }
    )
    faults = unread_keys(cfg)
    assert [fault.partition(":")[0] for fault in faults] == ["optimiser", "hooks", "up"]
    assert "did you mean 'optimizer'?" in faults[0]
    assert "_hooks" in faults[1]
    cfg.train = {}
    assert [fault.partition(":")[0] for fault in unread_keys(cfg)][:2] == ["dataset", "pretrained"]


def test_interpolations_of_a_missing_value_are_a_single_fault():
    values = {"root": "???", "a": "${root}/a", "b": {"c": "${root}/c", "d": ["${b.e}", {"f": "???"}], "e": "${.d.1.f}"}}
    assert faults_of(values) == ["root: has no value yet (it is ???)", "b.d.1.f: has no value yet (it is ???)"]


def test_interpolations_that_fail_for_the_same_reason_are_a_single_fault():
    call = "${detrex_lite.call:os.getcwd}"
    reason = f"{call} is not called: only functions of detrex_lite are allowed"
    assert faults_of({"a": call}) == [f"a: {reason}"]
    assert faults_of(dict.fromkeys("abcde", call)) == [f"a, b, c, ... (5 in all): {reason}"]
