import concurrent.futures
import json
import multiprocessing
import re
import signal
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from detrex_lite import distributed
from detrex_lite.config import ConfigError
from detrex_lite.engine import clear_errors, launch
from detrex_lite.engine.processes import launch as launching

from .. import children
from ..test_resume import assert_same_run, final_state, numbers


def identity(value):
    return value, distributed.world_size()


def test_one_process_runs_in_this_process():
    assert launch(identity, 1, device="cpu", args=(3,)) == (3, 1)


def test_processes_of_torchrun_start_no_others(monkeypatch):
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


def test_processes_connect_in_a_store_that_was_used_before(monkeypatch):
    """torchrun keeps the store between restarts; before the second start, one of three processes had no answer."""
    store = dist.HashStore()
    for start in range(3):
        if start == 1:
            store.set("question/2", "of a process that was killed before it got an answer")
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            stores = list(pool.map(lambda rank: launching._fresh_store(store, rank, 3), (0, 1, 2)))
        assert not stores[0].check(["address"])
        stores[1].set("address", str(start))
        assert [fresh_store.get("address") for fresh_store in stores] == [str(start).encode()] * 3
    monkeypatch.setattr(launching, "WAIT_AT_MOST", timedelta(seconds=0.05))
    with pytest.raises(TimeoutError, match=r"processes \[1\] did not come within 0:00:00.05"):
        launching._fresh_store(store, 0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_processes": 0}, "0 processes on 1 machines: .*at least 1"),
        ({"num_machines": 2, "machine_rank": 2}, r"machine_rank=2 must be in 0\.\.1"),
        ({"num_machines": 2}, "machines need .*--dist-url tcp://"),
        ({"num_processes": 4096, "device": "cuda"}, r"train\.device=cuda with 4096 processes .*train\.device=cpu"),
    ],
)
def test_numbers_of_processes_that_cannot_start_raise(arguments, message):
    with pytest.raises(ConfigError, match=message):
        launch(identity, **{"device": "cpu", "args": (1,), **arguments})


def test_two_processes_train_stop_and_fail_together(tmp_path):
    assert launch(children.several_runs, 2, device="cpu", args=(tmp_path,)) is None
    reports = [json.loads((tmp_path / f"report_{rank}.json").read_text()) for rank in (0, 1)]
    assert reports[0] == reports[1]
    report = reports[0]
    assert report["world_size"] == 2
    assert report["results"] == {"bbox": {"AP": 10.0}}
    assert report["start_method"] == multiprocessing.get_start_method()  # loader workers start as with one process

    # Process 1 received the signal with its sixth batch, in the third step.
    assert report["stopped"] == 143
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert len(final_state(tmp_path / "whole")["rng"]) == 2
    assert [record["iteration"] for record in numbers(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6, 6]

    # The error of each process says which process failed.
    assert "training stopped at iteration 3: a cost is not finite; images: process 1, 8.jpg" in report["error"]
    assert numbers(tmp_path / "error")[-1]["iteration"] == 2


def test_a_killed_process_ends_the_run_and_is_named(tmp_path, capfd):
    start = time.monotonic()
    with pytest.raises(SystemExit) as exit_info:
        launch(children.train_and_kill_process_1, 2, device="cpu", args=(tmp_path,))
    assert time.monotonic() - start < 60
    assert exit_info.value.code == 128 + signal.SIGKILL
    last = capfd.readouterr().err.splitlines()[-1]
    assert re.match(r"error: process 1 failed, .*killed by SIGKILL \(.*memory", last)
    log = (tmp_path / "log.txt").read_text()
    assert "process 0 lost its connection to another process" in log
    assert "from the last checkpoint" in log
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"


class Exited:
    """A process that has ended, with the message that it sent before, if any."""

    def __init__(self, exitcode, *messages):
        self.exitcode = exitcode
        self.sent = messages

    def is_alive(self):
        return False

    def join(self, timeout=None):
        pass

    def poll(self):
        return bool(self.sent)

    def recv(self):
        return launching._Ending(*self.sent[0])


def error_of(error, rank):
    """Return the reason that process `rank` sends its parent when `main` raises this error under `clear_errors`."""
    try:
        with clear_errors():
            raise error
    except BaseException as exit_error:
        return launching._reason(exit_error, rank)


LOST = "LostProcessError: process 0 lost its connection"


@pytest.mark.parametrize(
    ("processes", "status", "message"),
    [
        ([Exited(1, (5.0, LOST)), Exited(1, (4.0, "ValueError: bad"))], 1, "process 1 failed, .*: ValueError: bad"),
        ([Exited(1, (5.0, LOST)), Exited(-9)], 137, r"process 1 failed, .*: killed by SIGKILL \(.*memory"),
        ([Exited(0), Exited(-7)], 135, r"process 1 failed, .*: killed by SIGBUS \(shared memory may be full"),
        ([Exited(0), Exited(-11)], 139, "process 1 failed, .*: killed by SIGSEGV$"),
        ([Exited(0), Exited(3)], 3, "process 1 failed, .* status 3"),
        ([Exited(1, (5.0, LOST)), Exited(2, (4.0, "no such file"))], 2, "process 1 failed, .*: no such file"),
        ([Exited(2, (5.0, None)), Exited(2, (4.0, "no such file"))], 2, None),  # reported by the main process
        ([Exited(143, (5.0, None)), Exited(143, (4.0, None))], 143, None),
        ([Exited(130), Exited(130)], 130, None),
    ],
)
def test_only_the_first_failure_is_reported(capsys, processes, status, message):
    children = [launching._Child(rank, process, process) for rank, process in enumerate(processes)]
    assert launching._wait(children) == status
    printed = capsys.readouterr().err
    assert printed == "" if message is None else re.search(f"^error: {message}", printed)


def test_a_config_error_in_a_single_process_is_reported():
    assert error_of(ConfigError("no such file"), rank=1) == "no such file"
    assert error_of(ConfigError("no such file"), rank=0) is None  # clear_errors has printed it
    assert error_of(SystemExit(143), rank=1) is None
    assert error_of(KeyboardInterrupt(), rank=1) is None
    assert error_of(OSError("disk"), rank=0) == "OSError: disk"


def test_a_failing_process_ends_the_other_processes(monkeypatch):
    monkeypatch.setattr("detrex_lite.engine.processes.launch.GRACE_SECONDS", 0.5)
    with pytest.raises(SystemExit) as exit_info:
        launch(children.fail_in_process_1, 2, device="cpu")
    assert exit_info.value.code == 7
