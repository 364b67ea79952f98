import re

import pytest
from omegaconf import OmegaConf
from torch import nn

from detrex_lite.config import ConfigError, LazyConfig, get_config, instantiate
from detrex_lite.config import LazyCall as L
from detrex_lite.config.overrides import _exists
from detrex_lite.foreign_names import FOREIGN_NAMES


@pytest.fixture
def cfg():
    values = {
        "model": L(nn.Sequential)(
            _args_=[L(nn.Conv2d)(in_channels="${size}", out_channels=8, kernel_size=(3, 3)), L(nn.ReLU)()]
        ),
        "size": 3,
        "train": {
            "max_iter": 90,
            "init_checkpoint": "",
            "amp": {"enabled": False},
            "hook": None,
            "names": {0: "zero"},
        },
        "lr": "${train.max_iter}",
    }
    return OmegaConf.create(values, flags={"allow_objects": True})


def apply(cfg, *overrides):
    return LazyConfig.apply_overrides(cfg, list(overrides))


def test_values_are_set_in_place(cfg):
    result = apply(cfg, "train.max_iter=10", "train.init_checkpoint=/a=b.pth", "train.amp.enabled=true", "size=1")
    assert result is cfg
    assert (cfg.train.max_iter, cfg.train.init_checkpoint, cfg.train.amp.enabled) == (10, "/a=b.pth", True)
    assert cfg.lr == 10
    assert cfg.model._args_[0].in_channels == 1


def test_calls_null_and_interpolations_can_be_replaced(cfg):
    apply(cfg, "train.hook=[1,2]", "lr=1e-4", "model._args_.1=null", "train.amp='x'", "size=${train.max_iter}")
    assert cfg.train.hook == [1, 2]
    assert cfg.lr == 1e-4
    assert cfg.model._args_[1] is None
    assert cfg.train.amp == "x"
    assert cfg.size == 90
    apply(cfg, "train.max_iter=7")
    assert cfg.size == 7


def test_list_indices_and_numeric_keys_are_accepted(cfg):
    apply(cfg, "model._args_.0.kernel_size.0=5", "model._args_[0].kernel_size[-1]=7", "train.names.0=nought")
    assert cfg.model._args_[0].kernel_size == [5, 7]
    assert cfg.train.names == {0: "nought"}


def test_the_arguments_of_a_target_need_no_plus(cfg):
    apply(
        cfg,
        "model._args_.0.bias=false",
        "model._args_.1._target_=torch.nn.LeakyReLU",
        "model._args_.1.negative_slope=0.5",
    )
    conv, relu = instantiate(cfg.model)
    assert conv.bias is None
    assert relu.negative_slope == 0.5


def test_a_dict_changes_only_its_keys(cfg):
    apply(cfg, "train={max_iter: 5, amp: {enabled: true}}")
    assert (cfg.train.max_iter, cfg.train.amp.enabled, cfg.train.hook) == (5, True, None)
    apply(cfg, "train.amp={}", "model={_target_: torch.nn.ReLU}")
    assert cfg.train.amp == {}
    assert isinstance(instantiate(cfg.model), nn.ReLU)


def test_plus_adds_and_tilde_deletes(cfg):
    apply(
        cfg,
        "+train.a.b=1",
        "++train.hook.c=[x]",
        "+train.max_iter=2",
        "~train.amp",
        "~model._args_.1",
        "+train={new: 3}",
    )
    assert cfg.train.a.b == 1
    assert cfg.train.hook.c == ["x"]
    assert cfg.train.max_iter == 2
    assert "amp" not in cfg.train
    assert len(cfg.model._args_) == 1
    assert cfg.train.new == 3


FAULTY = {
    "train.max_itr=1": "there is no 'train.max_itr'; did you mean 'train.max_iter'?",
    "trian.max_iter=1": "there is no 'trian.max_iter'; did you mean 'train.max_iter'?",
    "max_iter=1": "there is no 'max_iter'; did you mean 'train.max_iter'?",
    "model._args_.0.kernel_siz=1": "did you mean 'model._args_.0.kernel_size'?",
    "model._args_.0.biass=1": "did you mean 'model._args_.0.bias'?",
    "model._args_.1.size=1": "there is no 'model._args_.1.size'; torch.nn.ReLU takes inplace",
    "model._args_.1=torch.nn.ReLUU": "torch.nn has no attribute 'ReLUU'; did you mean 'ReLU'?",
    "model._args_.1=os.system": "--trust os",
    "model._args_.2=1": "model._args_ has 2 items, none at '2'",
    "+model._args_.2=1": "model._args_ has 2 items, none at '2'",
    "train.max_iter.x=1": "train.max_iter is 90, which has no keys",
    "train.hook.x=1": "train.hook is None, which has no keys",
    "train.amp={enabld: true}": "did you mean 'train.amp.enabled'?",
    "train={zzzzzzzz: 1, qqqqqqqqq: 2}": "there is no 'train.qqqqqqqqq'",
    "~train.ampp": "did you mean 'train.amp'?",
    "~train.amp=1": "expected key=value, +key=value to add a key, or ~key to delete one",
    "train.max_iter": "expected key=value",
    "=1": "expected key=value",
    "size=[1": "cannot read the value '[1'",
    "size=${": "override 'size=${': ",
}


@pytest.mark.parametrize("override", FAULTY)
def test_faulty_overrides_raise(cfg, override):
    with pytest.raises(ConfigError) as caught:
        apply(cfg, override)
    assert FAULTY[override] in str(caught.value)
    assert all(fault.startswith(f"override {override!r}: ") for fault in caught.value.faults)


def test_all_faults_are_reported_at_once(cfg):
    with pytest.raises(ConfigError, match="faults in the config") as caught:
        apply(cfg, *FAULTY)
    assert len(caught.value.faults) == len(FAULTY) + 1  # the last dict has two faults


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("train.early_stopping=3", "train.patience"),
        ("train.patience_epochs=3", "train.patience"),
        ("patience=3", "train.patience"),
        ("batch=4", "dataloader.train.total_batch_size"),
        ("dataloader.train.batch=4", "dataloader.train.total_batch_size"),
        ("dataloader.test.batch=4", "dataloader.test.batch_size"),
        ("workers=4", "dataloader.train.num_workers"),
        ("seed=1", "train.seed"),
        ("weights=a.pth", "train.init_checkpoint"),
        ("model.size=3", None),
        ("train.batch_size=3", "dataloader.train.total_batch_size"),
        ("optimizer.learning_rate=1", "optimizer.lr"),
        ("lr=1", "optimizer.lr"),
        ("epochs=1", "train.max_epochs"),
    ],
)
def test_names_of_other_toolkits_suggest_ours(override, suggestion):
    cfg = get_config("projects/detr/configs/detr_small_shapes.py")
    with pytest.raises(ConfigError) as caught:
        apply(cfg, override)
    assert re.findall(r"did you mean '([^']*)'", str(caught.value)) == [suggestion] * (suggestion is not None)


def test_keys_that_are_flags_name_the_flag():
    cfg = get_config("projects/detr/configs/detr_small_shapes.py")
    for override, flag in {"resume=True": "--resume", "num_gpus=2": "--num-gpus", "data=photos": "--data"}.items():
        with pytest.raises(ConfigError, match=f"flag {flag} "):
            apply(cfg, override)


def test_every_key_for_a_foreign_name_exists_in_a_config():
    cfg = get_config("projects/detr/configs/detr_r50_300ep.py")
    for keys in FOREIGN_NAMES.values():
        assert any(key.startswith("--") or _exists(cfg, key) for key in keys), keys


def test_choices_are_listed_without_a_similar_key(cfg):
    with pytest.raises(ConfigError, match=r"choices: lr, model, size, train"):
        apply(cfg, "xyzzy=1")


def make_block(width: int, activation=nn.ReLU, name: str = "x", **other_arguments):
    return activation


def test_class_names_become_classes_where_a_class_is_expected():
    values = {
        "absent": L(make_block)(width=1),
        "present": L(make_block)(width=1, activation=nn.ReLU),
        "call": L(nn.ReLU)(),
    }
    cfg = OmegaConf.create(values, flags={"allow_objects": True})
    apply(cfg, "absent.activation=torch.nn.GELU", "present.activation=torch.nn.GELU", "call=torch.nn.GELU")
    assert instantiate(cfg.absent) is instantiate(cfg.present) is nn.GELU
    assert isinstance(instantiate(cfg.call), nn.GELU)


def test_strings_stay_strings_where_no_class_is_expected():
    cfg = OmegaConf.create({"a": L(make_block)(width=1, name="y"), "b": L(nn.ReLU)()}, flags={"allow_objects": True})
    apply(cfg, "a.name=torch.nn.GELU", "b=weights.pth", "a.activation=some/file.pth")
    assert (cfg.a.name, cfg.b, cfg.a.activation) == ("torch.nn.GELU", "weights.pth", "some/file.pth")


def test_adding_with_plus_is_suggested_only_for_possible_keys(cfg):
    for override, can_be_added in (("model._args_.1.size=1", False), ("train.zzz=1", False), ("zzz=1", True)):
        with pytest.raises(ConfigError) as caught:
            apply(cfg, override)
        assert ("would add it" in str(caught.value)) == can_be_added
