"""Starting one or several processes, by this program or by torchrun, and saying why one of them failed."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from ... import distributed
from ...config import ConfigError
from ...devices import usable_cores
from ...distributed import WAIT_AT_MOST
from .signals import SIGNALS, end_when_interrupted, signals_held_back, signals_to_heed, take_signals

# How long processes get to end by themselves after one has failed: those that wait for it never would.
GRACE_SECONDS = 5.0

# What usually stands behind a signal that nobody sent on purpose.
USUAL_CAUSES = {
    signal.SIGKILL: "the system does that when memory runs out; fewer dataloader.*.num_workers need less",
    signal.SIGBUS: "shared memory may be full; fewer dataloader.*.num_workers need less",
}


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

    Processes exchange what is on GPUs by NCCL, and the rest by gloo. Under torchrun (`RANK` and `WORLD_SIZE` in the
    environment) this process is one of them already and the other arguments do not count.

    When a process fails, or is killed, the others of its machine are ended within seconds, and the reason is the last
    line that is printed. When this process is killed, those that it has started save a checkpoint and end.

    Args:
        main: a function that can be imported by name: new processes import it.
        num_processes: per machine; on GPUs one for each, on a CPU any number, which share its cores.
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
        return _run_under_torchrun(main, args, device)
    world_size = num_processes * num_machines
    _check(num_processes, num_machines, machine_rank, dist_url, device)
    if world_size == 1:
        return main(*args)
    url = f"tcp://127.0.0.1:{_free_port()}" if dist_url == "auto" else dist_url
    # A fresh interpreter each: CUDA and threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    usual = multiprocessing.get_start_method()
    resource_tracker.ensure_running()  # it would let signals through in the middle of the following
    children: list[_Child] = []
    with contextlib.ExitStack() as stack:
        # A signal that comes while processes start reaches all of them, when they can take it.
        with signals_held_back():
            for local_rank in range(num_processes):
                rank = machine_rank * num_processes + local_rank
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_run,
                    args=(main, args, url, rank, world_size, local_rank, num_processes, device, usual, theirs),
                )
                process.start()
                theirs.close()
                children.append(_Child(rank, process, ours))
            stack.enter_context(_signals_passed_on([child.process for child in children]))
        status = _wait(children)
    if status:
        raise SystemExit(status)
    return None


def times_restarted() -> int:
    """How often torchrun has started the processes of this machine again, after one of them had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextlib.contextmanager
def process_group(url: str, rank: int, world_size: int, local_rank: int, device: str) -> Iterator[None]:
    """Inside, torch.distributed connects this process with the others."""
    from torch.distributed.rendezvous import rendezvous  # builds of torch without collectives have none

    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(local_rank)
    store, _, _ = next(rendezvous(url, rank, world_size, timeout=WAIT_AT_MOST))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",  # by gloo, processes exchange what no GPU has to be asked
        store=_unused_part(store, rank, world_size),
        rank=rank,
        world_size=world_size,
        timeout=WAIT_AT_MOST,
    )
    try:
        distributed.cpu_group()  # a network that it cannot use is to be known now, not at the first evaluation
        yield
    finally:
        dist.destroy_process_group()


def _unused_part(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """A part of `store` that these processes, which must all call this, are the first to use.

    torchrun keeps one store however often it starts the processes, and what those before have left there would have
    them wait for processes that are gone. So each asks under a name of its own, and the main one answers.
    """
    if rank > 0:
        question = uuid.uuid4().hex
        store.set(f"question/{rank}", question)
        part = store.get(f"answer/{question}").decode()
        store.set(f"{part}/{rank}", "")
        return dist.PrefixStore(part, store)
    part = uuid.uuid4().hex
    waiting, deadline = set(range(1, world_size)), time.monotonic() + WAIT_AT_MOST.total_seconds()
    while waiting:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(waiting)} did not come within {WAIT_AT_MOST}")
        for other in sorted(waiting):
            if store.check([f"{part}/{other}"]):
                waiting.remove(other)
            elif store.check([f"question/{other}"]):  # perhaps of a process before: then it asks again
                store.set(f"answer/{store.get(f'question/{other}').decode()}", part)
        time.sleep(0.01)
    return dist.PrefixStore(part, store)


def _run_under_torchrun(main: Callable[..., Any], args: Sequence[Any], device: str) -> Any:
    from torch.distributed.elastic.multiprocessing.errors import record  # likewise

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda") and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"this is process {local_rank + 1} of its machine, and torch sees {torch.cuda.device_count()} GPUs here: "
            "start fewer (torchrun --nproc-per-node), or train with train.device=cpu"
        )
    with process_group("env://", rank, world_size, local_rank, device):
        return record(main)(*args)  # torchrun's report then shows the error itself


def _check(num_processes: int, num_machines: int, machine_rank: int, dist_url: str, device: str) -> None:
    if num_processes < 1 or num_machines < 1:
        raise ConfigError(f"{num_processes} processes on {num_machines} machines: both must be at least 1")
    if not 0 <= machine_rank < num_machines:
        raise ConfigError(f"machine_rank={machine_rank} must be in 0..{num_machines - 1}")
    if num_machines > 1 and dist_url == "auto":
        raise ConfigError("several machines need a place to meet: --dist-url tcp://<host of machine 0>:<port>")
    if device.startswith("cuda") and num_processes > torch.cuda.device_count():
        raise ConfigError(
            f"train.device={device} with {num_processes} process{'es' * (num_processes > 1)} needs as many GPUs, and "
            f"torch sees {torch.cuda.device_count()} here; on CPUs train with train.device=cpu"
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
    start_method: str,
    parent: Connection,
) -> None:
    """What a new process does. When it fails it tells the parent when and why, before others notice."""
    end_when_interrupted(says_so=rank == 0)
    # Otherwise what this process starts, such as loaders' workers, would be spawned as it was: each would import torch
    # again and have a copy of the data set of its own.
    multiprocessing.set_start_method(start_method, force=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not device.startswith("cuda") and "OMP_NUM_THREADS" not in os.environ:
        # Otherwise each process would use all cores.
        torch.set_num_threads(max(1, usable_cores() // num_processes))
    with contextlib.ExitStack() as stack:
        try:
            take_signals()
            stack.enter_context(process_group(url, rank, world_size, local_rank, device))
            main(*args)
        except BaseException as error:
            with contextlib.suppress(OSError):  # the parent may be gone
                parent.send(_Ending(time.time(), _reason(error, rank)))
            raise


def _reason(error: BaseException, rank: int) -> str | None:
    """What the parent is to tell; None when this process has said what there is to say."""
    if isinstance(error, SystemExit) and rank > 0 and isinstance(error.__context__, ValueError):
        return str(error.__context__)  # a fault of the config, which the main process tells if it has it too
    return None if isinstance(error, SystemExit | KeyboardInterrupt) else f"{type(error).__name__}: {error}"


def _end_with_parent() -> None:
    """Ask this process to end, as a cluster would, when the one that has started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


class _Ending(NamedTuple):
    """When a process failed, and why; None when it has told the user itself."""

    time: float
    reason: str | None


class _Child:
    """A process that was started here.

    Args:
        rank: its number.
        process: the process.
        connection: where its `_Ending` comes from, if it lives to send one.
    """

    def __init__(self, rank: int, process: Any, connection: Connection):
        self.rank = rank
        self.process = process
        self._connection = connection

    def ending(self) -> _Ending:
        """Of a process that has failed. Who did not live to tell was the first to fail."""
        with contextlib.suppress(EOFError):
            if self._connection.poll():
                return self._connection.recv()
        number = -self.process.exitcode
        if number <= 0:
            at_once = self.process.exitcode in [128 + number for number in SIGNALS]  # by a second signal
            return _Ending(0.0, None if at_once else f"it ended with status {self.process.exitcode}, without a word")
        cause = USUAL_CAUSES.get(number)
        return _Ending(0.0, f"killed by {signal.Signals(number).name}" + (f" ({cause})" if cause else ""))


@contextlib.contextmanager
def _signals_passed_on(processes: Sequence[Any]) -> Iterator[None]:
    """Inside, signals to this process go to `processes`, which know what to save."""

    def pass_on(number: int, frame: Any) -> None:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, pass_on) for number in (signals_to_heed() if in_main_thread else ())}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(children: Sequence[_Child]) -> int:
    """Wait for all processes; returns the exit status of the one that failed first, 0 when all went well."""
    processes = [child.process for child in children]
    while not any(p.exitcode for p in processes) and any(p.is_alive() for p in processes):
        multiprocessing.connection.wait([p.sentinel for p in processes if p.is_alive()], timeout=1.0)
    failed = [child for child in children if child.process.exitcode]
    if not failed:
        return 0
    endings = [(child, child.ending()) for child in failed]
    first, ending = min(endings, key=lambda pair: pair[1].time)
    told = any(child.rank == 0 and its.reason is None for child, its in endings)
    _end(processes)
    if ending.reason is not None and not told:
        print(f"error: process {first.rank} failed, and so the run ends: {ending.reason}", file=sys.stderr)
    status = first.process.exitcode
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
