import copy

import numpy as np
import pytest
import torch
from torch import nn

from detrex_lite.checkpoint import CheckpointError, KeyMap, load_checkpoint, model_state, save_atomic
from detrex_lite.checkpoint.key_maps import COCO_IDS

from .models import (
    TO_DETECTRON2_RESNET,
    TO_DETR,
    TO_DETREX,
    Backbone,
    Detector,
    random_state,
    renamed,
)


@pytest.fixture(scope="module")
def pristine():
    torch.manual_seed(0)
    return Detector()


@pytest.fixture
def model(pristine):
    return copy.deepcopy(pristine)


def backbone_part(state):
    return {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}


def assert_holds(model, state):
    loaded = model.state_dict()
    for name, value in state.items():
        torch.testing.assert_close(loaded[name], value.to(loaded[name].dtype), rtol=0, atol=0)


def assert_unchanged(model, pristine):
    assert_holds(model, pristine.state_dict())


@pytest.mark.parametrize(
    ("source", "rules"),
    [("detrex_lite", ()), ("detrex", TO_DETREX), ("detr", TO_DETR)],
    ids=lambda value: str(value)[:11],
)
@pytest.mark.parametrize("selection", ["auto", "by name"])
def test_all_weights_are_loaded_from_each_naming(model, source, rules, selection):
    state = random_state(model)
    report = load_checkpoint(model, renamed(state, *rules), "auto" if selection == "auto" else source)
    assert_holds(model, state)
    assert report.key_map == source
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    assert sorted(name for names in report.loaded.values() for name in names) == sorted(state)


@pytest.mark.parametrize(
    ("source", "rules", "head"),
    [("torchvision", (), "fc.weight"), ("detectron2", TO_DETECTRON2_RESNET, "stem.fc.weight")],
)
def test_backbone_weights_load_into_a_detector_and_into_a_bare_backbone(model, source, rules, head):
    state = backbone_part(random_state(model))
    foreign = {**renamed(state, *rules), head: torch.zeros(10, 4)}

    report = load_checkpoint(model, foreign)
    assert report.key_map == source
    assert_holds(model.backbone, state)
    assert report.unexpected == []
    assert "transformer.decoder.layers.0.norms.0.weight" in report.missing
    assert not any(name.startswith("backbone.") for name in report.missing)

    bare = Backbone()
    report = load_checkpoint(bare, foreign)
    assert_holds(bare, state)
    assert (report.missing, report.unexpected) == ([], [])


def test_a_bare_backbone_loads_the_backbone_of_a_detector(model):
    state = random_state(model)
    bare = Backbone()
    report = load_checkpoint(bare, renamed(state, *TO_DETREX))
    assert_holds(bare, backbone_part(state))
    assert report.missing == []
    assert "query_embed.weight" in report.unexpected


def test_float64_models_receive_float64_values(model):
    state = random_state(model)
    assert state["queries.embedding.weight"].dtype == torch.float64
    load_checkpoint(model.double(), state)
    assert_holds(model, state)
    assert model.queries.embedding.weight.dtype == torch.float64
    assert model.queries.embedding.weight.requires_grad


def test_tensors_that_are_not_weights_are_ignored(model):
    state = random_state(model)
    extra = {
        "criterion.empty_weight": torch.ones(4),
        "pixel_mean": torch.zeros(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
        "backbone.bn1.num_batches_tracked": torch.tensor(3),
    }
    report = load_checkpoint(model, {**state, **extra})
    assert report.unexpected == []
    assert set(report.loaded) == set(state)


def test_missing_counters_of_batch_norms_are_not_reported(model):
    model.backbone.bn1 = nn.BatchNorm2d(64)
    state = random_state(model)
    del state["backbone.bn1.num_batches_tracked"]
    assert load_checkpoint(model, state).missing == []


def test_the_92_rows_of_the_class_head_of_detr_are_reduced_to_80_classes(model):
    model.heads.class_embed[0] = nn.Linear(8, 81)
    state = random_state(model)
    rows = torch.arange(92.0)
    state["heads.class_embed.0.weight"], state["heads.class_embed.0.bias"] = rows[:, None].expand(92, 8), rows
    report = load_checkpoint(model, renamed(state, *TO_DETR))
    assert report.mismatched == []
    assert model.heads.class_embed[0].bias.tolist() == [*COCO_IDS, 91]
    assert model.heads.class_embed[0].weight[:, 3].tolist() == [*COCO_IDS, 91]


def test_shape_mismatches_raise_an_error_that_lists_all_and_change_nothing(model, pristine):
    state = random_state(Detector(num_classes=90, num_queries=7))
    with pytest.raises(CheckpointError, match="3 tensors have another shape") as info:
        load_checkpoint(model, state)
    message = str(info.value)
    assert "heads.class_embed.0.weight: (91, 8) in the checkpoint, (4, 8) in the model" in message
    assert "heads.class_embed.0.bias: (91,)" in message
    assert "queries.embedding.weight: (7, 8)" in message
    assert "fine_tune=True" in message
    assert_unchanged(model, pristine)


def test_allowed_mismatches_keep_their_initial_values(model, pristine):
    state = random_state(Detector(num_classes=90))
    report = load_checkpoint(model, renamed(state, *TO_DETREX), fine_tune=True)
    assert [tuple(mismatch) for mismatch in report.mismatched] == [
        ("class_embed.weight", "heads.class_embed.0.weight", (91, 8), (4, 8)),
        ("class_embed.bias", "heads.class_embed.0.bias", (91,), (4,)),
    ]
    assert sorted(report.mismatched)[0].name == "heads.class_embed.0.bias"
    assert report.missing == []
    kept = {name: value for name, value in pristine.state_dict().items() if name.startswith("heads.class_embed.")}
    assert_holds(model, kept)
    assert_holds(model, {name: value for name, value in state.items() if name not in kept})


def test_missing_and_unexpected_tensors_are_reported_without_an_error(model, pristine):
    state = random_state(model)
    del state["queries.embedding.weight"]
    state["mask_head.weight"] = torch.zeros(2)
    report = load_checkpoint(model, state)
    assert report.missing == ["queries.embedding.weight"]
    assert report.unexpected == ["mask_head.weight"]
    assert_holds(model, {"queries.embedding.weight": pristine.queries.embedding.weight.detach()})


def test_a_checkpoint_of_another_model_raises_an_error_with_names_of_both(model, pristine):
    vit_weights = {f"blocks.{index}.attn.qkv.weight": torch.zeros(3) for index in range(20)}
    with pytest.raises(CheckpointError, match="1 of its 21 tensors") as info:
        load_checkpoint(model, {**vit_weights, "heads.class_embed.0.bias": torch.zeros(4)})
    assert "in the checkpoint: blocks.0.attn.qkv.weight" in str(info.value)
    assert "in the model: backbone.conv1.weight" in str(info.value)
    assert "(20 in all)" in str(info.value)
    assert_unchanged(model, pristine)


def test_fine_tuning_reinitialises_only_classes_and_queries(model, pristine):
    state = random_state(model)
    del state["heads.class_embed.0.weight"], state["heads.class_embed.0.bias"]  # recipes for DETR remove them
    state["queries.embedding.weight"] = torch.zeros(7, 8)
    report = load_checkpoint(model, state, fine_tune=True)
    assert sorted(report.missing) == ["heads.class_embed.0.bias", "heads.class_embed.0.weight"]
    assert [mismatch.name for mismatch in report.mismatched] == ["queries.embedding.weight"]
    assert_holds(model, {"heads.class_embed.0.bias": pristine.heads.class_embed[0].bias.detach()})


def test_fine_tuning_raises_an_error_if_another_part_would_stay_random(model, pristine):
    state = random_state(model)
    del state["transformer.encoder.layers.1.ffns.0.layers.0.weight"]
    state["input_proj.weight"] = torch.zeros(8, 128, 1, 1)
    with pytest.raises(CheckpointError, match="2 tensors .* initial values") as info:
        load_checkpoint(model, state, fine_tune=True)
    assert "transformer.encoder.layers.1.ffns.0.layers.0.weight" in str(info.value)
    assert "input_proj.weight: (8, 128, 1, 1) in the checkpoint, (8, 256, 1, 1) in the model" in str(info.value)
    assert "train.init_new_parts" in str(info.value)
    assert_unchanged(model, pristine)
    report = load_checkpoint(model, state, fine_tune=True, new_parts=["input_proj", "transformer.encoder.layers.1"])
    assert report.missing == ["transformer.encoder.layers.1.ffns.0.layers.0.weight"]


def test_fine_tuning_from_a_backbone_requires_all_of_its_weights(model, pristine):
    backbone = {key: value for key, value in random_state(model).items() if key.startswith("backbone.")}
    load_checkpoint(model, backbone, fine_tune=True)
    assert_holds(model, backbone)
    half = dict(list(backbone.items())[::2])
    with pytest.raises(CheckpointError, match="would keep their initial values"):
        load_checkpoint(copy.deepcopy(pristine), half, fine_tune=True)
    with pytest.raises(CheckpointError, match="1 do not: roi_heads.weight"):
        load_checkpoint(copy.deepcopy(pristine), {**backbone, "roi_heads.weight": torch.ones(2)}, fine_tune=True)


def test_new_parts_must_exist_and_need_fine_tuning(model):
    with pytest.raises(ValueError, match="fine_tune=True"):
        load_checkpoint(model, random_state(model), new_parts=["input_proj"])
    with pytest.raises(ValueError, match="'input_prj'.*did you mean 'input_proj'"):
        load_checkpoint(model, random_state(model), fine_tune=True, new_parts=["input_prj"])


def test_evaluation_requires_a_complete_checkpoint_except_training_only_parts(model):
    state = random_state(model)
    load_checkpoint(model, state).require_complete("a.pth")
    with pytest.raises(CheckpointError, match=r"has 1 tensors .*: relation.weight"):
        load_checkpoint(model, {**state, "relation.weight": torch.ones(2)}).require_complete("a.pth")
    partial = {name: value for name, value in state.items() if not name.startswith("queries.")}
    with pytest.raises(CheckpointError, match=r"lacks 1 of .*: queries.embedding.weight"):
        load_checkpoint(model, partial).require_complete("a.pth")
    model.training_only = ("queries.", "relation.")
    load_checkpoint(model, partial).require_complete("a.pth")
    load_checkpoint(model, {**state, "relation.weight": torch.ones(2)}).require_complete("a.pth")


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)


def test_parts_of_a_tensor_are_joined_and_all_are_required():
    rules = tuple((f"attention.{kind}.@", f"attention.in_proj_@[{index}/3]") for index, kind in enumerate("qkv"))
    key_map = KeyMap("parted", signature=("attention.q.weight",), rules=rules)
    foreign = {f"attention.{kind}.weight": torch.randn(4, 4) for kind in "vqk"}
    foreign |= {f"attention.{kind}.bias": torch.randn(4) for kind in "qkv"}
    foreign |= {f"attention.out_proj.{name}": value for name, value in nn.Linear(4, 4).state_dict().items()}
    model = Joined()
    report = load_checkpoint(model, foreign, key_map)
    assert (report.missing, report.unexpected) == ([], [])
    assert report.loaded["attention.v.bias"] == ["attention.in_proj_bias"]
    for index, kind in enumerate("qkv"):
        rows = slice(4 * index, 4 * index + 4)
        torch.testing.assert_close(model.attention.in_proj_weight[rows], foreign[f"attention.{kind}.weight"])
        torch.testing.assert_close(model.attention.in_proj_bias[rows], foreign[f"attention.{kind}.bias"])
    del foreign["attention.k.weight"]
    report = load_checkpoint(Joined(), foreign, key_map)
    assert report.missing == ["attention.in_proj_weight"]
    assert sorted(report.unexpected) == ["attention.q.weight", "attention.v.weight"]


def test_a_checkpoint_without_weights_raises_an_error(model):
    with pytest.raises(CheckpointError, match="no weights.*: epoch, args"):
        load_checkpoint(model, {"epoch": 3, "args": "x"})
    with pytest.raises(CheckpointError, match="0 of its 0 tensors"):
        load_checkpoint(model, {"pixel_mean": torch.zeros(3)})


def test_different_tensors_for_one_parameter_raise_an_error(model, pristine):
    colliding = KeyMap("collide", signature=(), rules=(("copy.", ""),))
    state = random_state(model)
    name = "heads.class_embed.0.bias"
    with pytest.raises(CheckpointError, match=f"{name} and copy.{name} -> {name}"):
        load_checkpoint(model, {**state, f"copy.{name}": torch.ones(4)}, colliding)
    assert_unchanged(model, pristine)
    # Projects that share a tensor between two names store it twice.
    report = load_checkpoint(model, {**state, f"copy.{name}": state[name]}, colliding)
    assert report.loaded[f"copy.{name}"] == report.loaded[name] == [name]


class SharedHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(2, 2)] * 3)


def test_a_shared_tensor_needs_to_be_stored_only_once():
    model = SharedHeads()
    state = {"heads.1.weight": torch.full((2, 2), 5.0), "heads.0.bias": torch.full((2,), 6.0)}
    report = load_checkpoint(model, state)
    assert report.missing == []
    assert report.loaded == {"heads.1.weight": ["heads.0.weight"], "heads.0.bias": ["heads.0.bias"]}
    assert model.heads[2].weight.tolist() == [[5.0, 5.0], [5.0, 5.0]]


def test_different_values_for_a_shared_tensor_raise_an_error():
    state = {
        f"heads.{index}.{leaf}": torch.full((2,) * dim, float(index))
        for index in range(3)
        for leaf, dim in (("weight", 2), ("bias", 1))
    }
    with pytest.raises(CheckpointError, match="different tensors .*heads.0.weight"):
        load_checkpoint(SharedHeads(), state)


def test_the_error_for_an_unknown_source_suggests_the_closest(model):
    with pytest.raises(CheckpointError, match="unknown source 'detrx'.* 'detrex'"):
        load_checkpoint(model, random_state(model), "detrx")
    with pytest.raises(CheckpointError, match="choices: auto, anchor_detr, cae, conditional_detr"):
        load_checkpoint(model, random_state(model), "paddle")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "iteration": 7},
        lambda state: {"state_dict": state},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"model": renamed(state, (r"^", "module."))},
        lambda state: renamed(state, (r"^", "_orig_mod.")),
        lambda state: {"ema": {"module": state, "updates": 3}},
        lambda state: {"model": {name: value.numpy() for name, value in state.items()}},
    ],
    ids=["model", "state_dict", "nested", "ddp", "compiled", "only ema", "numpy"],
)
def test_wrapped_state_dicts_are_unwrapped(model, wrap):
    state = random_state(model)
    load_checkpoint(model, wrap(state))
    assert_holds(model, state)


@pytest.mark.parametrize("key", ["ema", "ema_state", "model_ema"])
def test_the_running_mean_is_preferred_by_default(model, key):
    trained, averaged = random_state(model, seed=1), random_state(model, seed=2)
    del averaged["backbone.bn1.running_mean"]  # some averages have no buffers; these are read from the model
    stored = {"model": trained, key: averaged}
    load_checkpoint(model, stored)
    assert_holds(model, averaged)
    assert_holds(model, {"backbone.bn1.running_mean": trained["backbone.bn1.running_mean"]})
    load_checkpoint(model, stored, prefer_ema=False)
    assert_holds(model, trained)


def test_model_state_converts_read_only_arrays():
    array = np.arange(4, dtype=np.float32)
    array.flags.writeable = False
    state = model_state({"model": {"a": array, "b": np.float32(2.5)}, "__author__": "someone"})
    assert state["a"].tolist() == [0, 1, 2, 3]
    assert state["b"].item() == 2.5


def test_compiled_and_parallel_models_are_unwrapped(model):
    class Compiled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self._orig_mod = inner

    state = random_state(model)
    report = load_checkpoint(Compiled(model), state)
    assert report.missing == []
    assert_holds(model, state)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_load_from_files(model, tmp_path, suffix):
    state = random_state(model)
    save_atomic(renamed(state, *TO_DETREX), tmp_path / f"weights{suffix}")
    report = load_checkpoint(model, tmp_path / f"weights{suffix}")
    assert report.key_map == "detrex"
    assert_holds(model, state)


def test_errors_name_the_file(model, tmp_path):
    save_atomic(random_state(Detector(num_classes=90)), tmp_path / "coco.pth")
    with pytest.raises(CheckpointError, match=r"coco\.pth: 2 tensors have another shape"):
        load_checkpoint(model, tmp_path / "coco.pth")
    save_atomic({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match=r"empty\.pth: .* no weights"):
        load_checkpoint(model, str(tmp_path / "empty.pth"))


def test_summary_is_a_table_by_part_of_the_model(model):
    state = random_state(Detector(num_classes=90))
    for index in range(20):
        state[f"mask_head.{index}.weight"] = torch.zeros(1)
    del state["queries.embedding.weight"]
    lines = load_checkpoint(model, state, fine_tune=True).summary().splitlines()
    assert "1 unused" not in lines[0]
    assert lines[0].endswith("3 re-initialised, 20 unused")
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:] if not line.startswith(" ")}
    assert rows["heads.class_embed"] == ["-", "2", "-"]
    assert rows["queries.embedding"] == ["-", "1", "-"]
    assert rows["mask_head"] == ["-", "-", "20"]
    assert rows["heads.bbox_embed"] == ["6", "-", "-"]
    assert "  heads.class_embed.0.weight: (91, 8) in the checkpoint, (4, 8) in the model" in lines
    assert "  queries.embedding.weight" in lines
    assert "  mask_head (20 tensors)" in lines
    assert len(lines) < 30
