import pickle

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


def test_a_sound_config_passes():
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
    assert faults == [
        "model.out_features: Interpolation key 'nowhere.x' not found",
        "model.bias: has no value yet (it is ???)",
        "model.in_feature: torch.nn.Linear has no argument 'in_feature'; did you mean 'in_features'?",
        "model.in_features: torch.nn.Linear needs this argument",
        "parts.0._target_: torch.nn has no attribute 'Lineer'; did you mean 'Linear'?",
        "parts.1._target_: 'torchh.nn.Linear': there is no module 'torchh'; did you mean 'torch'?",
        "parts.2.deep._target_: 3.141592653589793 cannot be called",
    ]


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
    assert faults[0] == "too_many._args_: torch.nn.ReLU takes at most 1 positional arguments, not 2"
    assert faults[1] == "twice.in_features: torch.nn.Linear gets this argument twice, first from _args_"
    assert "positional_only has no argument 'a'" in faults[2]
    assert len(faults) == 3


def test_values_of_run_time_are_left_out():
    values = {
        "optimizer": L(optim.AdamW)(params=L(open_ended)(), lr=1),
        "given": L(nn.Linear)(in_features="???"),
    }
    assert faults_of({"optimizer": L(optim.AdamW)(params=L(nn.Sequential)(model="???"))}) == [
        "optimizer.params.model: torch.nn.Sequential has no argument 'model'"
    ]
    assert faults_of(values, late=("given.in_features", "given.out_features")) == []
    assert faults_of({"optimizer": {"params": L(nn.ModuleList)(modules=1)}}, late=()) == []


def make_parameters(model, decay=0.0):
    return model


def test_the_model_of_the_optimizer_is_a_run_time_value_by_default():
    values = {"optimizer": L(optim.AdamW)(params=L(make_parameters)(), lr=1)}
    assert faults_of(values) == []
    assert faults_of(values, late=()) == [f"optimizer.params.model: {__name__}.make_parameters needs this argument"]


def test_a_part_is_named_by_its_place_in_the_whole():
    cfg = OmegaConf.create({"a": {"b": [{"c": "???"}]}})
    with pytest.raises(ConfigError, match=r"^a\.b\.0\.c: has no value yet"):
        validate(cfg.a.b)


def test_what_an_interpolation_leads_to_is_checked_once_and_where_it_stands():
    cfg = OmegaConf.create({"a": {"x": "${b}", "y": "${b}"}, "b": L(nn.ReLU)(inplac=1)}, flags={"allow_objects": True})
    with pytest.raises(ConfigError, match=r"^b\.inplac: torch\.nn\.ReLU has no argument"):
        validate(cfg.a)


@pytest.mark.parametrize(
    "values", [{"a": "${b}", "b": "${a}"}, {"a": {"b": "${a}"}}, {"a": {"x": "${b}"}, "b": {"y": "${a}"}}]
)
def test_circles_are_faults(values):
    assert faults_of(values)


def test_faults_come_in_the_order_of_the_config():
    names = ["zz", "aa", "mm"]
    faults = faults_of({"a": L(nn.ReLU)(**dict.fromkeys(names, 1))})
    assert [fault.partition(":")[0] for fault in faults] == [f"a.{name}" for name in names]


def test_interpolated_targets_and_plain_containers():
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
def test_words_where_numbers_belong(values, fault):
    (found,) = faults_of({"part": L(make_part)(**values)})
    assert found.startswith(fault)


def test_numbers_of_all_kinds_pass():
    part = L(make_part)(size=2.0, scale=1, flag=True, limit=None, late=1.5, pair=[1, 2], name="x")
    assert faults_of({"part": part, "computed": L(make_part)(size=L(len)(_args_=[[1]]))}) == []
    assert faults_of({"optimizer": L(optim.AdamW)(params=1, lr="fast")})[0].startswith("optimizer.lr: 'fast' is not a")


def test_keys_that_nothing_reads():
    cfg = OmegaConf.create(
        {
            "model": {"size": "${size.x}", "root": "a/${root}/b", "deep": {"up": "${...above}", "own": "${.up}"}},
            "train": {"max_epochs": "${detrex_lite.call:detrex_lite.engine.derived.max_epochs}"},
            "size": {"x": 1, "y": "${further}"},
            "root": "r",
            "above": 1,
            "further": 2,
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


def test_interpolations_of_one_missing_value_are_one_fault():
    values = {"root": "???", "a": "${root}/a", "b": {"c": "${root}/c", "d": ["${b.e}", {"f": "???"}], "e": "${.d.1.f}"}}
    assert faults_of(values) == ["root: has no value yet (it is ???)", "b.d.1.f: has no value yet (it is ???)"]


def test_interpolations_that_fail_for_one_reason_are_one_fault():
    call = "${detrex_lite.call:os.getcwd}"
    reason = f"{call} is not called: only functions of detrex_lite are allowed"
    assert faults_of({"a": call}) == [f"a: {reason}"]
    assert faults_of(dict.fromkeys("abcde", call)) == [f"a, b, c, ... (5 in all): {reason}"]
