import logging
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detrex_lite.checkpoint import Checkpointer, CheckpointError, save_atomic, verify_checkpoint
from detrex_lite.checkpoint import checkpointer as checkpointer_module


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_training_state_is_loaded_unchanged(tmp_path):
    model = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": 12,
        "best": {"metric": "bbox/AP", "value": 41.5},
        "class_names": ["cat", "dog"],
        "config": "train: {}\n",
        "rng": {"torch": torch.get_rng_state(), "python": (3, (1, 2, 3), None)},
        "scaler": None,
    }
    checkpointer = Checkpointer(tmp_path / "run")
    path = checkpointer.save("model_0000012", state)
    assert path == tmp_path / "run" / "model_0000012.pth"
    loaded = checkpointer.load(path)
    assert loaded.pop("format") == 1
    torch.testing.assert_close(loaded["model"], dict(state["model"]))
    torch.testing.assert_close(loaded["optimizer"]["state"], optimizer.state_dict()["state"])
    torch.testing.assert_close(loaded["rng"]["torch"], state["rng"]["torch"])
    for key in ("iteration", "best", "class_names", "config", "scaler"):
        assert loaded[key] == state[key]
    assert loaded["rng"]["python"] == (3, (1, 2, 3), None)


def test_the_latest_checkpoint_is_recorded(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    assert not checkpointer.has_checkpoint()
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        checkpointer.latest()
    checkpointer.save("model_10", {"iteration": 10})
    checkpointer.save("model_final", {"iteration": 12})
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert Checkpointer(tmp_path).has_checkpoint()
    assert Checkpointer(tmp_path).latest() == tmp_path / "model_final.pth"
    assert checkpointer.load(checkpointer.latest())["iteration"] == 12


def test_if_the_recorded_file_is_missing_the_latest_remaining_one_is_used(tmp_path, caplog):
    checkpointer = Checkpointer(tmp_path)
    for iteration in (900, 1000):
        checkpointer.save(f"model_{iteration}", {"iteration": iteration})
    checkpointer.save("model_final", {"iteration": 1001})
    (tmp_path / "model_final.pth").unlink()
    with caplog.at_level(logging.WARNING):
        assert checkpointer.latest() == tmp_path / "model_1000.pth"
    assert "model_final.pth, which is missing" in caplog.text
    (tmp_path / "last_checkpoint").write_text("")
    assert checkpointer.latest() == tmp_path / "model_1000.pth"


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit_of_a_weight(path):
    content = bytearray(path.read_bytes())
    position = content.index(torch.full((64,), 7.0).numpy().tobytes())
    content[position + 5] ^= 1
    path.write_bytes(content)
    # torch reads the damaged file without an error, so checksums must be compared.
    assert not torch.equal(torch.load(path, weights_only=True)["model"]["weight"], torch.full((64,), 7.0))


@pytest.mark.parametrize("damage", [cut_off, empty, flip_a_bit_of_a_weight])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(tmp_path, caplog, damage):
    checkpointer = Checkpointer(tmp_path)
    for iteration in (90, 100, 110):
        checkpointer.save(f"model_{iteration}", {"model": {"weight": torch.full((64,), 7.0)}})
    damage(tmp_path / "model_110.pth")
    with caplog.at_level(logging.WARNING):
        assert checkpointer.latest() == tmp_path / "model_100.pth"
    assert re.search(r"model_110\.pth is (damaged|empty).*looking for the previous", caplog.text)
    damage(tmp_path / "model_100.pth")
    damage(tmp_path / "model_90.pth")
    assert checkpointer.has_checkpoint()
    with pytest.raises(CheckpointError, match=r"damaged \(model_110.pth, model_100.pth, model_90.pth\)"):
        checkpointer.latest()
    checkpointer.save("model_best", {})
    (tmp_path / "last_checkpoint").write_text("model_110.pth")
    assert checkpointer.latest() == tmp_path / "model_best.pth"


def test_rotation_removes_the_lowest_iterations_and_keeps_best_and_final(tmp_path):
    checkpointer = Checkpointer(tmp_path, max_to_keep=2)
    checkpointer.save("model_best", {})
    for iteration in (8, 9, 10, 100):  # as text, 100 comes before 8
        checkpointer.save(f"model_{iteration}", {"iteration": iteration})
    checkpointer.save("model_final", {})
    assert names_in(tmp_path) == [
        "last_checkpoint",
        "model_10.pth",
        "model_100.pth",
        "model_best.pth",
        "model_final.pth",
    ]


def test_without_a_limit_all_checkpoints_are_kept(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for iteration in range(5):
        checkpointer.save(f"model_{iteration}", {})
    assert len(list(tmp_path.glob("model_*.pth"))) == 5


def test_rotation_never_removes_the_checkpoint_just_saved(tmp_path):
    for iteration in (1000, 2000):  # of an earlier, longer run
        save_atomic({}, tmp_path / f"model_{iteration}.pth")
    Checkpointer(tmp_path, max_to_keep=1).save("model_5", {})
    assert names_in(tmp_path) == ["last_checkpoint", "model_5.pth"]


def test_a_full_disk_removes_no_earlier_checkpoint(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, max_to_keep=1)
    checkpointer.save("model_1", {"iteration": 1})

    def write_half(obj, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", write_half)
        with pytest.raises(OSError, match=r"could not write .*model_2\.pth .*MiB free"):
            checkpointer.save("model_2", {"iteration": 2})
    assert names_in(tmp_path) == ["last_checkpoint", "model_1.pth"]
    assert checkpointer.load(checkpointer.latest())["iteration"] == 1


def test_old_checkpoints_are_removed_only_after_the_new_one_is_recorded(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, max_to_keep=1)
    checkpointer.save("model_1", {"iteration": 1})

    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpointer_module, "atomic_file", full)  # model_2 fits, last_checkpoint does not
        with pytest.raises(OSError, match="No space left"):
            checkpointer.save("model_2", {"iteration": 2})
    assert names_in(tmp_path) == ["last_checkpoint", "model_1.pth", "model_2.pth"]
    assert checkpointer.latest().name == "model_1.pth"


def test_an_old_checkpoint_that_cannot_be_removed_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    checkpointer = Checkpointer(tmp_path, max_to_keep=1)
    checkpointer.save("model_1", {})

    def deny(self, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", deny)
    with caplog.at_level(logging.WARNING):
        checkpointer.save("model_2", {})
    assert "could not remove the old checkpoint" in caplog.text
    assert checkpointer.latest().name == "model_2.pth"


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    for name in ("model_7.pth", "metrics.jsonl", "last_checkpoint"):
        (tmp_path / f".{name}.0123456789abcdef.partial").write_bytes(b"half of it")
    (tmp_path / ".of another program.partial").touch()
    checkpointer = Checkpointer(tmp_path)
    assert not checkpointer.has_checkpoint()
    checkpointer.remove_leftovers()
    checkpointer.save("model_8", {})
    assert names_in(tmp_path) == [".of another program.partial", "last_checkpoint", "model_8.pth"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"best": {"value": np.float64(1.0)}}, r"state\['best'\]\['value'\] is a numpy.float64"),
        ({"steps": [1, {2}]}, r"state\['steps'\]\[1\] is a builtins.set"),
        ({"config": Path("x")}, r"state\['config'\] is a pathlib\.\S+Path"),
        ({"by": {(1, np.int64(2)): 3}}, r"a key of state\['by'\]\[1\] is a numpy.int64"),
    ],
)
def test_saving_values_that_could_not_be_loaded_raises_an_error(tmp_path, state, message):
    with pytest.raises(ValueError, match=message):
        Checkpointer(tmp_path).save("model_1", state)
    assert names_in(tmp_path) == []


def test_plain_values_of_every_type_are_loaded_unchanged(tmp_path):
    plain = {
        "nested": OrderedDict(a=[1, 2.5, (True, None)]),
        "bytes": b"\x00\xff",
        5: "key",
        "big": 2**80,
        "parameter": nn.Parameter(torch.ones(2)),
    }
    checkpointer = Checkpointer(tmp_path)
    loaded = checkpointer.load(checkpointer.save("model_1", plain))
    assert {key: loaded[key] for key in ("nested", "bytes", 5, "big")} == {
        key: plain[key] for key in ("nested", "bytes", 5, "big")
    }


@pytest.mark.parametrize("name", ["", "a/b", "../model", "model_1.pth"])
def test_names_with_a_folder_or_suffix_raise_an_error(tmp_path, name):
    with pytest.raises(ValueError, match="without folder and suffix"):
        Checkpointer(tmp_path).save(name, {})


def test_max_to_keep_below_one_raises_an_error(tmp_path):
    with pytest.raises(ValueError, match="max_to_keep=0 is below 1"):
        Checkpointer(tmp_path, max_to_keep=0)


def test_only_training_states_of_the_current_format_can_be_resumed(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    save_atomic({"model": {}}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"no training state .*train\.init_checkpoint"):
        checkpointer.load(tmp_path / "weights.pth")
    save_atomic({"model": {}, "format": 2}, tmp_path / "newer.pth")
    with pytest.raises(CheckpointError, match="has format 2, .* format 1"):
        checkpointer.load(tmp_path / "newer.pth")


def test_concurrent_writers_to_a_folder_publish_complete_files(tmp_path):
    """Both write the same files without a lock; every published file is complete at all times."""

    def save_often(number):
        checkpointer = Checkpointer(tmp_path)
        for index in range(10):
            verify_checkpoint(checkpointer.save(f"model_{index}", {"a": torch.full((300_000,), float(number))}))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(save_often, range(2)))
    assert names_in(tmp_path) == ["last_checkpoint", *(f"model_{index}.pth" for index in range(10))]
