import json

import pytest
import torch

from detrex_lite import distributed
from detrex_lite.config import ConfigError
from detrex_lite.engine import launch

from . import children
from .test_resume import assert_same_run, final_state, numbers


def identity(value):
    return value, distributed.world_size()


def test_one_process_runs_here():
    assert launch(identity, 1, device="cpu", args=(3,)) == (3, 1)


def test_torchrun_is_recognised(monkeypatch):
    environment = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def main():
        return torch.distributed.is_initialized(), torch.distributed.get_backend()

    assert launch(main, 8, device="cpu") == (True, "gloo")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_processes": 0}, "0 processes on 1 machines: both must be at least 1"),
        ({"num_machines": 2, "machine_rank": 2}, r"machine_rank=2 must be in 0\.\.1"),
        ({"num_machines": 2}, "several machines need a place to meet: --dist-url tcp://"),
        ({"num_processes": 4096, "device": "cuda"}, r"4096 GPUs are asked for, .*train\.device=cpu"),
    ],
)
def test_what_cannot_be_started_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        launch(identity, **{"device": "cpu", "args": (1,), **arguments})


def test_two_processes_train_together_stop_together_and_fail_together(tmp_path):
    assert launch(children.several_runs, 2, device="cpu", args=(tmp_path,)) is None
    reports = [json.loads((tmp_path / f"report_{rank}.json").read_text()) for rank in (0, 1)]
    assert reports[0] == reports[1]
    report = reports[0]
    assert report["world_size"] == 2
    assert report["results"] == {"bbox": {"AP": 10.0}}

    # The signal came to process 1 with its sixth batch, in the third step.
    assert report["stopped"] == 143
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert len(final_state(tmp_path / "whole")["rng"]) == 2
    assert [record["iteration"] for record in numbers(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6, 6]

    # Every process says what happened in which one.
    assert "training stopped at iteration 3: a cost is not finite; images: process 1, 8.jpg" in report["error"]
    assert numbers(tmp_path / "error")[-1]["iteration"] == 2


def test_the_failure_of_one_process_ends_the_others(monkeypatch):
    monkeypatch.setattr("detrex_lite.engine.processes.GRACE_SECONDS", 0.5)
    with pytest.raises(SystemExit) as ended:
        launch(children.fail_in_one, 2, device="cpu")
    assert ended.value.code == 7
