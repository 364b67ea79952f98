import pytest
import torch.distributed as dist

from detrex_lite.engine import LostProcessError
from detrex_lite.engine.processes.failures import failures_in_log


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 12) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
        "DataLoader worker (pid 9) exited unexpectedly with exit code 1. Details are lost due to multiprocessing.",
    ],
)
def test_a_lost_loader_worker_is_recognised(text, caplog):
    with (
        pytest.raises(LostProcessError, match=r"loads images has ended \(DataLoader worker .*num_workers"),
        failures_in_log(),
    ):
        raise RuntimeError(text)
    assert "Traceback" in caplog.text
    assert "a process that loads images has ended" in caplog.text


LOST_CONNECTIONS = [
    RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:8412"),
    dist.DistBackendError("NCCL error: remote process exited or there was a network error"),
    dist.DistNetworkError("The client socket has failed to connect"),
]


@pytest.mark.parametrize("error", LOST_CONNECTIONS, ids=lambda error: type(error).__name__)
def test_a_lost_connection_refers_to_the_other_process(error, monkeypatch):
    monkeypatch.setattr("detrex_lite.distributed.world_size", lambda: 2)
    monkeypatch.setattr("detrex_lite.distributed.is_distributed", lambda: True)
    monkeypatch.setattr("detrex_lite.distributed.rank", lambda: 1)
    with (
        pytest.raises(LostProcessError, match="process 1 lost its connection to another process.*--resume"),
        failures_in_log(),
    ):
        raise error


@pytest.mark.parametrize("error", [*LOST_CONNECTIONS, RuntimeError("CUDA out of memory"), ValueError("a bug")])
def test_other_errors_are_logged_and_raised_unchanged(error, caplog):
    with pytest.raises(type(error)) as caught, failures_in_log():
        raise error
    assert caught.value is error
    assert str(error) in caplog.text
