"""Starting one or several processes, by this program or by torchrun."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

# How long processes get to end by themselves after one has failed: those that wait for it never would.
GRACE_SECONDS = 5.0


def launch(
    main: Callable[..., Any],
    num_processes: int = 1,
    *,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    device: str = "cuda",
    args: Sequence[Any] = (),
) -> Any:
    """Run `main(*args)` in `num_processes` processes on each machine, with a process group around them.

    Processes on GPUs talk by NCCL, others by gloo. Under torchrun (`RANK` and `WORLD_SIZE` in the
    environment) this process is one of them already and the other arguments do not count.

    Args:
        main: a function that can be imported by name: new processes import it.
        num_processes: per machine; one per GPU.
        num_machines: how many machines take part; each starts this program.
        machine_rank: this machine's number, from 0.
        dist_url: where processes meet: `tcp://host:port` of machine 0; "auto" on one machine.
        device: "cuda" or "cpu".
        args: arguments of `main`.

    Returns:
        What `main` returned when it ran in this process, otherwise None.

    Raises:
        ConfigError: when there are fewer GPUs than processes, or several machines without a meeting point.
        SystemExit: with the status of the process that failed first.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        with process_group("env://", rank, world_size, int(os.environ.get("LOCAL_RANK", "0")), device):
            return main(*args)
    world_size = num_processes * num_machines
    _check(num_processes, num_machines, machine_rank, dist_url, device)
    if world_size == 1:
        return main(*args)
    url = f"tcp://127.0.0.1:{_free_port()}" if dist_url == "auto" else dist_url
    # A fresh interpreter each: CUDA and threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    processes = []
    for local_rank in range(num_processes):
        rank = machine_rank * num_processes + local_rank
        process = context.Process(
            target=_run, args=(main, args, url, rank, world_size, local_rank, num_processes, device)
        )
        process.start()
        processes.append(process)
    status = _wait(processes)
    if status:
        raise SystemExit(status)
    return None


@contextlib.contextmanager
def process_group(url: str, rank: int, world_size: int, local_rank: int, device: str) -> Iterator[None]:
    """Inside, torch.distributed connects this process with the others."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo", init_method=url, rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _check(num_processes: int, num_machines: int, machine_rank: int, dist_url: str, device: str) -> None:
    from ..config import ConfigError

    if num_processes < 1 or num_machines < 1:
        raise ConfigError(f"{num_processes} processes on {num_machines} machines: both must be at least 1")
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(f"machine_rank={machine_rank} must be in 0..{num_machines - 1}")
    if num_machines > 1 and dist_url == "auto":
        raise ConfigError("several machines need a place to meet: --dist-url tcp://<host of machine 0>:<port>")
    if device.startswith("cuda") and num_processes > torch.cuda.device_count():
        raise ConfigError(
            f"{num_processes} GPUs are asked for, and torch sees {torch.cuda.device_count()} here; "
            "on CPUs train with train.device=cpu"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(
    main: Callable[..., Any],
    args: Sequence[Any],
    url: str,
    rank: int,
    world_size: int,
    local_rank: int,
    num_processes: int,
    device: str,
) -> None:
    """What a new process does."""
    if not device.startswith("cuda"):
        # Otherwise each process would use all cores.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_processes))
    with process_group(url, rank, world_size, local_rank, device):
        main(*args)


def _wait(processes: Sequence[Any]) -> int:
    """Wait for all processes; returns the exit status of the first that failed, 0 when all went well.

    Signals are passed on to the processes, which know what to save.
    """

    def pass_on(number: int, frame: Any) -> None:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
    previous = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        status = 0
        while not status and any(process.is_alive() for process in processes):
            multiprocessing.connection.wait([p.sentinel for p in processes if p.is_alive()], timeout=1.0)
            status = next((p.exitcode for p in processes if p.exitcode), 0)
        if status:
            _end(processes)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 - status if status < 0 else status


def _end(processes: Sequence[Any]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    left = [process for process in processes if process.is_alive()]
    if left:
        print(f"ending {len(left)} processes that wait for the one that failed", file=sys.stderr)
    for process in left:
        process.kill()
        process.join()
