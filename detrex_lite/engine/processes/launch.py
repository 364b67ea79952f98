"""Launching one or several processes, by this program or under torchrun, and reporting why one of them failed."""

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

# Time for processes to end by themselves after one has failed. Those that wait for the failed one never end, and are
# killed afterwards.
GRACE_SECONDS = 5.0

# The usual cause of a signal that nobody sent on purpose.
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

    The process group uses NCCL for tensors on GPUs and gloo for everything else. Under torchrun (`RANK` and
    `WORLD_SIZE` in the environment) this process already is one of the group, and all arguments but `main`, `args` and
    `device` are ignored.

    When a process fails or is killed, the other processes of its machine are ended within seconds, and the last line
    printed is the reason. When this process is killed, the processes that it has launched save a checkpoint and end.

    Args:
        main: a function that can be imported by name, because new processes import it.
        num_processes: per machine. On GPUs there is one process per GPU; on a CPU the processes share its cores.
        num_machines: the number of machines; this program is started on each of them.
        machine_rank: this machine's number, from 0.
        dist_url: the address of the rendezvous, `tcp://host:port` of machine 0; "auto" on a single machine.
        device: "cuda" or "cpu".
        args: arguments of `main`.

    Returns:
        The result of `main` when it ran in this process, otherwise None.

    Raises:
        ConfigError: when there are fewer GPUs than processes, or several machines without a `dist_url`.
        SystemExit: with the status of the process that failed first.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _run_under_torchrun(main, args, device)
    world_size = num_processes * num_machines
    _check(num_processes, num_machines, machine_rank, dist_url, device)
    if world_size == 1:
        return main(*args)
    url = f"tcp://127.0.0.1:{_free_port()}" if dist_url == "auto" else dist_url
    # Each process gets a fresh interpreter, because CUDA and threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    start_method = multiprocessing.get_start_method()
    resource_tracker.ensure_running()  # starting it later would unblock signals inside `signals_held_back`
    children: list[_Child] = []
    with contextlib.ExitStack() as stack:
        # Signals are blocked while processes start, and are delivered to all of them once they can handle them.
        with signals_held_back():
            for local_rank in range(num_processes):
                rank = machine_rank * num_processes + local_rank
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_run,
                    args=(main, args, url, rank, world_size, local_rank, num_processes, device, start_method, sender),
                )
                process.start()
                sender.close()
                children.append(_Child(rank, process, receiver))
            stack.enter_context(_signals_passed_on([child.process for child in children]))
        status = _wait(children)
    if status:
        raise SystemExit(status)
    return None


def times_restarted() -> int:
    """How many times torchrun has restarted the processes of this machine after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextlib.contextmanager
def process_group(url: str, rank: int, world_size: int, local_rank: int, device: str) -> Iterator[None]:
    """Inside this context, torch.distributed connects this process with the others."""
    from torch.distributed.rendezvous import rendezvous  # missing in builds of torch without collectives

    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(local_rank)
    store, _, _ = next(rendezvous(url, rank, world_size, timeout=WAIT_AT_MOST))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",  # gloo exchanges values on CPUs without synchronising the GPUs
        store=_fresh_store(store, rank, world_size),
        rank=rank,
        world_size=world_size,
        timeout=WAIT_AT_MOST,
    )
    try:
        distributed.cpu_group()  # so that an unusable network fails now and not at the first evaluation
        yield
    finally:
        dist.destroy_process_group()


def _fresh_store(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """`store` under a prefix that no earlier processes have used. Every process must call this.

    torchrun keeps one store across restarts, and keys left behind by earlier processes would make the new ones wait for
    processes that no longer exist. The processes therefore agree on a new prefix:

        question/<rank> = nonce      a worker asks, under a nonce of its own
        answer/<nonce> = prefix      the main process answers
        <prefix>/<rank> = ""         the worker acknowledges
    """
    if rank > 0:
        nonce = uuid.uuid4().hex
        store.set(f"question/{rank}", nonce)
        prefix = store.get(f"answer/{nonce}").decode()
        store.set(f"{prefix}/{rank}", "")
        return dist.PrefixStore(prefix, store)
    prefix = uuid.uuid4().hex
    waiting, deadline = set(range(1, world_size)), time.monotonic() + WAIT_AT_MOST.total_seconds()
    while waiting:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(waiting)} did not come within {WAIT_AT_MOST}")
        for worker in sorted(waiting):
            if store.check([f"{prefix}/{worker}"]):
                waiting.remove(worker)
            elif store.check([f"question/{worker}"]):  # perhaps left by an earlier process; the new one will ask again
                store.set(f"answer/{store.get(f'question/{worker}').decode()}", prefix)
        time.sleep(0.01)
    return dist.PrefixStore(prefix, store)


def _run_under_torchrun(main: Callable[..., Any], args: Sequence[Any], device: str) -> Any:
    from torch.distributed.elastic.multiprocessing.errors import record  # missing in the same builds

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda") and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"this is process {local_rank + 1} of its machine, and torch sees {torch.cuda.device_count()} GPUs here: "
            "start fewer (torchrun --nproc-per-node), or train with train.device=cpu"
        )
    with process_group("env://", rank, world_size, local_rank, device):
        return record(main)(*args)  # so that torchrun's report shows the error itself


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
    """The entry point of a new process. On failure it reports the time and the reason to the parent process."""
    end_when_interrupted(says_so=rank == 0)
    # This process was spawned, and would otherwise spawn the workers of its loaders too: each would import torch again
    # and hold its own copy of the data set.
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
    """The reason that the parent should print; None when this process has printed it."""
    if isinstance(error, SystemExit) and rank > 0 and isinstance(error.__context__, ValueError):
        return str(error.__context__)  # an error in the config, which the main process prints if it has it too
    return None if isinstance(error, SystemExit | KeyboardInterrupt) else f"{type(error).__name__}: {error}"


def _end_with_parent() -> None:
    """Send this process a SIGTERM, as a cluster would, once its parent process has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


class _Ending(NamedTuple):
    """The time at which a process failed, and the reason; None when the process has printed the reason itself."""

    time: float
    reason: str | None


class _Child:
    """A process that was launched by this one.

    Args:
        rank: its rank.
        process: the process.
        connection: receives its `_Ending`, unless it was killed before it could send one.
    """

    def __init__(self, rank: int, process: Any, connection: Connection):
        self.rank = rank
        self.process = process
        self._connection = connection

    def ending(self) -> _Ending:
        """When and why this process failed. A process that was killed without a report counts as the first to fail."""
        with contextlib.suppress(EOFError):
            if self._connection.poll():
                return self._connection.recv()
        number = -self.process.exitcode
        if number <= 0:
            by_second_signal = self.process.exitcode in [128 + number for number in SIGNALS]
            return _Ending(
                0.0, None if by_second_signal else f"it ended with status {self.process.exitcode}, without a word"
            )
        cause = USUAL_CAUSES.get(number)
        return _Ending(0.0, f"killed by {signal.Signals(number).name}" + (f" ({cause})" if cause else ""))


@contextlib.contextmanager
def _signals_passed_on(processes: Sequence[Any]) -> Iterator[None]:
    """Inside this context, signals to this process are forwarded to `processes`, which save a checkpoint."""

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
    """Wait for all processes; returns the exit status of the first that failed, or 0 when all succeeded."""
    processes = [child.process for child in children]
    while not any(p.exitcode for p in processes) and any(p.is_alive() for p in processes):
        multiprocessing.connection.wait([p.sentinel for p in processes if p.is_alive()], timeout=1.0)
    failed = [child for child in children if child.process.exitcode]
    if not failed:
        return 0
    endings = [(child, child.ending()) for child in failed]
    first, ending = min(endings, key=lambda pair: pair[1].time)
    reported = any(child.rank == 0 and child_ending.reason is None for child, child_ending in endings)
    _end(processes)
    if ending.reason is not None and not reported:
        print(f"error: process {first.rank} failed, and so the run ends: {ending.reason}", file=sys.stderr)
    status = first.process.exitcode
    return 128 - status if status < 0 else status


def _end(processes: Sequence[Any]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    remaining = [process for process in processes if process.is_alive()]
    if remaining:
        print(f"ending {len(remaining)} processes that wait for the one that failed", file=sys.stderr)
    for process in remaining:
        process.kill()
        process.join()
