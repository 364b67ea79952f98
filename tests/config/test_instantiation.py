import copy
import dataclasses
import functools

import pytest
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detrex_lite.config import ConfigError, ConstructionError, LazyConfig, instantiate
from detrex_lite.config import LazyCall as L

CALLS = []


@dataclasses.dataclass
class Shape:
    channels: int = 1
    stride: int | None = None


class Thing:
    def __init__(self, value, items=(), options=None, extra=None):
        CALLS.append(self)
        self.value, self.items, self.options, self.extra = value, items, options, extra

    def __call__(self, addend):
        return self.value + addend


def fail(error):
    raise error


def reload(cfg, folder):
    LazyConfig.save(cfg, folder / "saved.yaml")
    return LazyConfig.load(folder / "saved.yaml")


@pytest.fixture(params=["direct", "saved"])
def roundtrip(request, tmp_path):
    """Return a function that returns the config unchanged, or as loaded after saving."""
    return (lambda cfg: cfg) if request.param == "direct" else lambda cfg: reload(cfg, tmp_path)


def test_calls_are_built_innermost_first(roundtrip):
    cfg = roundtrip(
        L(Thing)(value=3, items=[1, L(Thing)(value=4, items="${...items}")], options={"a": L(Thing)(value=5)})
    )
    cfg["items"][1]["items"] = [10]
    built = instantiate(cfg)
    assert isinstance(built, Thing)
    assert built.items[1].value == 4
    assert built.options["a"].value == 5


def test_interpolations_resolve_in_the_whole_config(roundtrip):
    cfg = roundtrip({"lr": 0.5, "things": [L(Thing)(value="${lr}", extra="${..1}"), L(Thing)(value=7)]})
    thing = instantiate(
        cfg.things[0] if isinstance(cfg, DictConfig) else OmegaConf.create(cfg, flags={"allow_objects": True}).things[0]
    )
    assert thing.value == 0.5
    assert thing.extra.value == 7


def test_containers_become_plain_python(roundtrip):
    cfg = roundtrip(L(Thing)(value=(1, [2, {"x": (3,)}]), options={"a": 1, "b": {"c": []}}))
    built = instantiate(cfg)
    assert built.value == [1, [2, {"x": [3]}]]
    assert type(built.value[1][1]["x"]) is list
    assert type(built.options) is dict
    assert type(built.options["b"]["c"]) is list


def test_built_objects_do_not_share_memory_with_the_config():
    cfg = OmegaConf.create({"data": [1, 2], "thing": L(Thing)(value="${data}")}, flags={"allow_objects": True})
    instantiate(cfg.thing).value.append(3)
    assert cfg.data == [1, 2]


def test_values_without_a_target_are_returned_unchanged():
    thing = Thing(1)
    plain = {"a": [1, 2]}
    assert instantiate(5) == 5
    assert instantiate(thing) is thing
    assert instantiate(plain) is plain
    assert instantiate([1, "x"]) == [1, "x"]


def test_targets_in_plain_containers_are_built():
    built = instantiate({"a": [L(Thing)(value=1)], "b": {"_target_": "torch.nn.ReLU"}})
    assert built["a"][0].value == 1
    assert isinstance(built["b"], nn.ReLU)


def test_objects_in_a_config_are_passed_unchanged():
    layer = nn.Linear(1, 1)
    assert instantiate(L(Thing)(value=layer, extra=[layer])).value is layer


def test_tuples_assigned_later_become_lists():
    cfg = L(Thing)(value=1)
    cfg["items"] = (1, L(Thing)(value=2))
    built = instantiate(cfg)
    assert type(built.items) is list
    assert built.items[1].value == 2


def test_partial_builds_nested_calls_once(roundtrip):
    make = instantiate(roundtrip(L(Thing)(extra=L(Thing)(value=1), _partial_=True)))
    assert isinstance(make, functools.partial)
    assert make(value=2).extra is make(value=3).extra


def test_args_are_passed_by_position(roundtrip):
    assert instantiate(roundtrip(L(Thing)(_args_=[1, [2]], extra=3))).items == [2]


def test_without_recursion_config_nodes_are_passed():
    cfg = OmegaConf.create(
        {"v": 9, "t": L(Thing)(value=L(Thing)(value="${v}"), _recursive_=False)},
        flags={"allow_objects": True},
    )
    inner = instantiate(cfg.t).value
    assert isinstance(inner, DictConfig)
    assert instantiate(inner).value == 9
    inner.value = 1
    assert cfg.t.value.value == 9


def test_a_target_may_be_a_call():
    cfg = L(L(len)(value=3))(addend=4)
    cfg._target_._target_ = Thing
    assert instantiate(cfg) == 7


def test_dataclass_instances_are_built_and_saved(roundtrip):
    built = instantiate(roundtrip(L(Thing)(value=Shape(channels=3), extra=L(Shape)(stride=2))))
    assert built.value == Shape(3)
    assert built.extra == Shape(1, 2)


def test_keyword_arguments_replace_and_complete_those_of_the_config():
    layer = nn.ReLU()
    cfg = L(Thing)(items=L(fail)(error="never built"))
    built = instantiate(cfg, value=layer, items=[1])
    assert built.value is layer
    assert built.items == [1]
    with pytest.raises(ConfigError, match=r"^valu: .* has no argument 'valu'; did you mean 'value'"):
        instantiate(cfg, value=1, valu=2)
    with pytest.raises(ConfigError, match="_target_ takes arguments, here value"):
        instantiate({"a": 1}, value=1)


def test_instantiating_does_not_change_the_config():
    cfg = L(Thing)(value=L(Thing)(value=[1]), _partial_=True, _args_=[])
    before = copy.deepcopy(cfg)
    instantiate(cfg)
    assert cfg == before


def test_nothing_is_built_if_the_config_has_faults():
    CALLS.clear()
    cfg = OmegaConf.create(
        {"model": L(Thing)(value=L(Thing)(value=1), extra=L(Thing)(valeu=1))}, flags={"allow_objects": True}
    )
    with pytest.raises(ConfigError, match=r"2 faults") as caught:
        instantiate(cfg.model)
    assert caught.value.faults[0].startswith("model.extra.valeu: ")
    assert caught.value.faults[1].startswith("model.extra.value: ")
    assert not CALLS


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("odd"), ConstructionError), (OSError("odd"), ConstructionError), (KeyError("odd"), RuntimeError)],
)
def test_errors_of_constructors_name_node_and_target(error, kind):
    cfg = OmegaConf.create({"a": {"b": [1, L(fail)(error=error)]}}, flags={"allow_objects": True})
    message = rf"^a\.b\.1: tests\.config\.test_instantiation\.fail failed: {type(error).__name__}: .*odd"
    with pytest.raises(kind, match=message) as caught:
        instantiate(cfg.a)
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error
