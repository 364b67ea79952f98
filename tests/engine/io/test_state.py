import random

import numpy as np
import pytest
import torch
from torch import nn

from detrex_lite.checkpoint import Checkpointer
from detrex_lite.engine import ModelEma, Trainer
from detrex_lite.engine.io.state import TrainingState
from detrex_lite.engine.processes.random_states import (
    preserved_random_states,
    random_states,
    seed_everything,
    set_random_states,
)
from detrex_lite.errors import NonFiniteError

from ..tiny import TinyDetector, TinyLoader


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item(), np.random.randn()


def make_state(folder, **arguments):
    model = TinyDetector()
    trainer = Trainer(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.1),
        data_loader=TinyLoader(),
        max_iter=4,
    )
    return TrainingState(model=model, trainer=trainer, checkpointer=Checkpointer(folder), **arguments)


def test_a_seed_determines_all_generators():
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_restored_random_states_include_cached_normal_numbers():
    seed_everything(0)
    np.random.randn()
    random.gauss(0, 1)
    states = random_states()
    expected = draw(), random.gauss(0, 1)
    set_random_states(states)
    assert (draw(), random.gauss(0, 1)) == expected


def test_preserved_random_states_are_restored_after_the_context():
    seed_everything(0)
    expected = draw()
    seed_everything(0)
    with preserved_random_states():
        draw()
    assert draw() == expected


def test_a_checkpoint_contains_the_whole_state_and_loads_with_weights_only(tmp_path):
    state = make_state(tmp_path, class_names=("a", "b"), config="train: {}\n")
    state.ema = ModelEma(state.model, decay=0.5)
    state.trainer.train()
    state.losses.add({"loss_class": torch.tensor(0.5)})
    state.scalars.add({"gate": torch.tensor(0.25)})
    stored = torch.load(state.save("model_0000004"), weights_only=True)
    assert set(stored) == {
        "format",
        "model",
        "ema",
        "ema_updates",
        "optimizer",
        "optimizer_class",
        "lr_scheduler",
        "scaler",
        "iteration",
        "batches",
        "rng",
        "losses",
        "scalars",
        "best",
        "stagnation",
        "class_names",
        "category_ids",
        "config",
    }
    assert stored["iteration"] == 4
    assert stored["batches"] == [(0, 4)]
    assert stored["class_names"] == ["a", "b"]
    assert stored["losses"] == [{"loss_class": (0.5, 1)}]
    assert stored["scalars"] == [{"gate": (0.25, 1)}]
    assert len(stored["rng"]) == 1
    assert state.saved_iteration == 4


def test_non_finite_weights_do_not_replace_a_checkpoint(tmp_path):
    state = make_state(tmp_path)
    path = state.save("model_best")
    before = path.read_bytes()
    nn.init.constant_(state.model.head.bias, float("nan"))
    with pytest.raises(NonFiniteError, match=r"weights are not finite: head\.bias.*model_best"):
        state.save("model_best")
    assert path.read_bytes() == before
    assert state.saved_iteration == 0


def test_a_full_disk_preserves_the_previous_checkpoint(tmp_path, monkeypatch):
    state = make_state(tmp_path)
    path = state.save("model_0000002")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"could not write .*model_0000004\.pth \(No space left on device"):
        state.save("model_0000004")
    assert [file.name for file in tmp_path.glob("*.pth*")] == ["model_0000002.pth"]
    assert state.checkpointer.latest() == path


def test_restoring_a_checkpoint_of_other_classes_raises(tmp_path):
    path = make_state(tmp_path, class_names=("a", "b")).save("model_0000002")
    with pytest.raises(ValueError, match=r"classes \['a', 'b'\], .*\['b', 'a'\]"):
        make_state(tmp_path, class_names=("b", "a")).restore(path)


def test_another_number_of_processes_draws_new_random_numbers(tmp_path, caplog, monkeypatch):
    state = make_state(tmp_path, seed=3)
    stored = state.capture()
    stored["rng"] *= 2
    stored["iteration"] = 2
    stored["losses"] = [{"loss": (3.0, 2), "seldom": (4.0, 1)}, {"loss": (5.0, 2)}]
    stored["scalars"] = [{"gate": (2.0, 2)}, {"gate": (4.0, 2)}]
    path = Checkpointer(tmp_path).save("model_0000002", stored)
    draws = []
    for rank, seed in ((0, 3), (1, 3), (0, 3), (0, 4)):
        state = make_state(tmp_path, seed=seed)
        monkeypatch.setattr("detrex_lite.distributed.rank", lambda rank=rank: rank)
        state.restore(path)
        seed_everything(0)
        state.trainer.on_loader_started()
        draws.append(draw())
    assert "had 2 processes and has 1 now" in caplog.text
    assert draws[0] == draws[2]
    assert len(set(draws)) == 3
    assert state.losses.means() == {"loss": 2.0, "seldom": 4.0}
    assert state.scalars.means() == {"gate": 1.5}


def test_a_checkpoint_without_scalars_is_restored(tmp_path):
    state = make_state(tmp_path)
    stored = {name: value for name, value in state.capture().items() if name != "scalars"}
    state.restore(Checkpointer(tmp_path).save("model_0000002", stored))
    assert state.scalars.means() == {}
