"""Training runs that are killed at random moments and resumed: the programs of the soak test.

Each run is a separate program in a separate session, started as users start it: processes that are still alive after
its end are found in /proc by the session number, even if their parent has changed.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from detrex_lite.config import LazyConfig
from detrex_lite.data import generate_shapes

from . import split_runs

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

STEPS = 48
CHECKPOINT_PERIOD = 4
LENGTHS = [
    f"train.max_iter={STEPS}",
    f"train.checkpointer.period={CHECKPOINT_PERIOD}",
    "train.checkpointer.max_to_keep=2",
    "train.eval_period=10",  # at checkpoints and between them
    "train.log_period=2",
]
# Components that draw random numbers in every step; `split_runs` has none of them.
RANDOM = {
    "detr": ["model.transformer.encoder.layer.ffn.ffn_drop=0.1"],
    "dino": ["model.denoising.label_noise_prob=0.5", "model.denoising.box_noise_scale=1.0"],
}
# In float64, differences by rounding stay small, except in denoising without noise, where the gradient is the sign of
# differences that are zero up to rounding. Augmentations draw other numbers in float64, and spawned loader workers do
# not know of the changed default.
ROUNDED = {
    "detr": ["dataloader.train.mapper.augmentation=null"],
    "dino": ["dataloader.train.mapper.augmentation=null", "model.denoising=null"],
}
MODELS = tuple(RANDOM)

# Timeout of anything that takes seconds on an idle machine, such as starting two processes, or a step and saving.
TIMEOUT_SECONDS = 300.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Targets of the signal: the started program; all of its processes, as from a terminal, a cluster or a crash of the
# machine; a process that trains; a process that loads images.
TARGETS = ("program", "all", "trainer", "worker")
# Moments of the signal: within the duration of the uninterrupted run, from its start or from its first logged step, or
# while a checkpoint is written.
MOMENTS = ("any time", *["in training"] * 3, *["while saving"] * 2)


def write_configs(folder):
    """Write configs and data of the runs: `<model>.yaml`, and `<model>_float64.py` without random numbers."""
    sizes = {"num_train": 10, "num_val": 5, "image_size": 48}
    generate_shapes(folder / "even", max_objects=1, empty_share=0, **sizes)
    generate_shapes(folder / "uneven", max_objects=3, empty_share=0.2, **sizes)
    for model in MODELS:
        cfg = split_runs.config(folder, "run", *LENGTHS, *RANDOM[model], model=model)
        LazyConfig.save(cfg, str(folder / f"{model}.yaml"))
        cfg = split_runs.config(folder, "run", *LENGTHS, *ROUNDED[model], model=model)
        LazyConfig.save(cfg, str(folder / f"{model}_plain.yaml"))
        # Each process executes the config before it builds the model.
        (folder / f"{model}_float64.py").write_text(
            "import torch\n\nfrom detrex_lite.config import LazyConfig\n\ntorch.set_default_dtype(torch.float64)\n"
            f"globals().update(LazyConfig.load({str(folder / f'{model}_plain.yaml')!r}))\n"
        )


class Process(NamedTuple):
    pid: int
    parent: int
    command: str


def processes_of(session):
    """List the running processes of a session, without zombies."""
    processes = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, _, process_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(process_session) == session and state not in "ZX":
                    command = (folder / "cmdline").read_text().replace("\0", " ")
                    processes.append(Process(int(folder.name), int(parent), command))
    return processes


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _restore_default_signal_handlers():
    """Reset signals that a soak in the background or under nohup ignores, since child processes inherit that."""
    for number in SIGNALS:
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)


class Program:
    """`tools/train_net.py`, started in a separate session.

    Args:
        config: the config file.
        output: the run's folder; printed output goes to `<output>.txt`.
        processes: number of processes that train.
        overrides: overrides of the config.
        resume: whether to resume the run in the folder.
    """

    def __init__(self, config, output, *overrides, processes=1, resume=False):
        self.output = output
        self.printed = output.with_name(f"{output.name}.txt")
        self.processes = processes
        command = [sys.executable, "tools/train_net.py", "--config-file", str(config)]
        command += ["--num-processes", str(processes), *(["--resume"] * resume)]
        self._logged_before = len(self.log())
        with self.printed.open("a") as stream:
            self._program = subprocess.Popen(
                [*command, f"train.output_dir={output}", *overrides],
                cwd=REPOSITORY,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                preexec_fn=_restore_default_signal_handlers,
            )
        self.pid = self._program.pid

    def log(self):
        file = self.output / "log.txt"
        return file.read_text(errors="replace") if file.exists() else ""

    def logged(self):
        """Return the log since the start."""
        return self.log()[self._logged_before :]

    def is_running(self):
        return self._program.poll() is None

    def is_training(self):
        """Return whether a step has been logged since the start."""
        return re.search(r"iteration \d+/", self.logged()) is not None

    def is_saving(self):
        return self.output.is_dir() and any(self.output.glob(".*.partial"))

    def wait(self):
        """Wait for the end of the program and all of its processes; returns the exit status.

        Raises:
            AssertionError: when a process does not end; all of them are then killed.
        """
        try:
            status = self._program.wait(timeout=TIMEOUT_SECONDS)
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while remaining := processes_of(self.pid):
                assert time.monotonic() < deadline, (
                    f"{remaining} remain after a program that ended with status {status}"
                )
                time.sleep(0.05)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{processes_of(self.pid)} did not end within {TIMEOUT_SECONDS:.0f} s; see {self.printed}"
            ) from None
        finally:
            self.end()
        return status

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._program.wait()

    def trainers(self, alive):
        if self.processes == 1:
            return [process for process in alive if process.pid == self.pid]
        return [process for process in alive if process.parent == self.pid and "spawn_main" in process.command]

    def send(self, number, target, rng):
        """Send a signal to `target`, one of `TARGETS`, or else to the program; returns the actual target."""
        alive = processes_of(self.pid)
        trainers = self.trainers(alive)
        pids = {process.pid for process in trainers}
        loaders = [process for process in alive if process.parent in pids and "resource_tracker" not in process.command]
        chosen = {"trainer": trainers, "worker": loaders}.get(target)
        with contextlib.suppress(ProcessLookupError):
            if target == "all":
                os.killpg(self.pid, number)
            elif chosen:
                os.kill(rng.choice(chosen).pid, number)
            else:
                target = "program"
                os.kill(self.pid, number)
        return target


class Attempt(NamedTuple):
    """One start of a program, and how it ended."""

    processes: int
    signal: str
    target: str
    moment: str
    trained: bool
    status: int


def random_workers(rng):
    return [f"dataloader.{part}.num_workers={rng.choice((0, 1, 2))}" for part in ("train", "test")]


def run_with_kills(config, output, *overrides, processes, kills, seconds, rng):
    """Start a run, kill it `kills` times, and resume it each time until it is done; returns an `Attempt` per start.

    Args:
        config: the config file.
        output: the run's folder.
        overrides: overrides of the config.
        processes: numbers of processes, one of which is chosen for each start.
        kills: number of times that the run is killed, unless it is done before.
        seconds: maps moments to the largest delay of a signal, in seconds.
        rng: the random number generator of all choices.

    Raises:
        AssertionError: when progress was lost, a process remains, or a start does not end by its signal.
    """
    for number in range(kills + 1):
        count = rng.choice(processes)
        # Drawn first, so that a seed gives the same plan regardless of timing.
        signal_to_send, moment = rng.choice(SIGNALS), rng.choice(MOMENTS)
        target = rng.choice(TARGETS if signal_to_send == signal.SIGKILL else TARGETS[:3])
        delay = rng.uniform(0.0, seconds.get(moment, 0.0))
        workers = random_workers(rng)
        last_saved = saved_iteration(output)
        program = Program(config, output, *overrides, *workers, processes=count, resume=number > 0)
        trained = False
        try:
            if number < kills:
                _wait_for(moment, delay, program)
                trained = program.is_training()
                target = program.send(signal_to_send, target, rng) if program.is_running() else "nobody"
            status = program.wait() if number < kills else _wait_for_the_end(program)
        finally:
            program.end()
        if number == kills or target == "nobody":
            attempt = Attempt(count, "none", "nobody", "", trained, status)
        else:
            attempt = Attempt(count, signal_to_send.name, target, moment, trained, status)
        yield attempt
        assert saved_iteration(output) >= last_saved
        continuation = re.search(r"Continuing from \S+, after iteration (\d+)\.", program.logged())
        # It may be later if the run was killed between a checkpoint and the file that names it as the newest.
        assert continuation is None or int(continuation[1]) >= last_saved, (
            f"saved after iteration {last_saved}, and: {continuation[0]}"
        )
        require_no_lost_progress(attempt, program)
        if status == 0:
            return
        assert status != 2, f"the start was rejected; see {program.printed}"
        assert attempt.signal != "none", f"status {status} without a signal; see {program.printed}"
    raise AssertionError(f"the run in {output} did not end")


def run_whole(config, output, *overrides, processes):
    """Run to the end; returns `seconds` for `run_with_kills`."""
    start = time.monotonic()
    program = Program(config, output, *overrides, processes=processes)
    try:
        while program.is_running() and not program.is_training():
            time.sleep(0.02)
        first_step = time.monotonic()
        assert _wait_for_the_end(program) == 0, program.printed.read_text()
    finally:
        program.end()
    end = time.monotonic()
    # Half of it, since a resumed run has fewer steps left.
    return {"any time": end - start, "in training": (end - first_step) / 2}


def _wait_for(moment, delay, program):
    deadline = time.monotonic() + (delay if moment == "any time" else TIMEOUT_SECONDS)
    while program.is_running() and time.monotonic() < deadline:
        if moment == "in training" and program.is_training():
            deadline, moment = time.monotonic() + delay, "any time"
        if moment == "while saving" and program.is_training() and program.is_saving():
            return
        time.sleep(0.002 if moment == "while saving" else 0.02)


def _wait_for_the_end(program):
    """Wait for a run that is not killed."""
    deadline = time.monotonic() + 10 * TIMEOUT_SECONDS
    while program.is_running():
        assert time.monotonic() < deadline, f"the run has not ended; see {program.printed}"
        time.sleep(0.1)
    return program.wait()


def saved_iteration(output):
    """Return the iteration of the checkpoint that is named as the newest; 0 without one."""
    file = output / "last_checkpoint"
    if not file.exists():
        return 0
    return torch.load(output / file.read_text(), weights_only=True, mmap=True)["iteration"]


def require_no_lost_progress(attempt, program):
    """Check after a signal that everything necessary was saved, and that the interrupted start had resumed correctly.

    Raises:
        AssertionError: with a description of what was lost.
    """
    log, saved = program.logged(), saved_iteration(program.output)
    stopped = re.search(r"Stopped after iteration (\d+), which is saved", log)
    if stopped is not None:
        assert saved == int(stopped[1]), f"{stopped[0]}, and the newest checkpoint is {saved}"
    elif attempt.signal in ("SIGTERM", "SIGINT") and attempt.trained and attempt.status != 0:
        assert (program.output / "model_final.pth").exists(), f"{attempt} saved nothing; see {program.printed}"
    steps = [int(number) for number in re.findall(r"iteration (\d+)/", log)]
    # The log line of a step is written before its checkpoint.
    due = (steps[-1] - 1) // CHECKPOINT_PERIOD * CHECKPOINT_PERIOD if steps else 0
    assert saved >= due, f"{steps[-1]} steps were made, and the newest checkpoint is {saved}"


class Tally:
    """The statistics of a soak, for its report."""

    def __init__(self):
        self.attempts = []
        self.compared = Counter()

    def table(self):
        killed = [attempt for attempt in self.attempts if attempt.signal != "none"]
        lines = [
            f"runs compared with uninterrupted ones: {sum(self.compared.values())} "
            f"({', '.join(f'{name}: {count}' for name, count in sorted(self.compared.items()))})",
            f"programs started for them: {len(self.attempts)}, with one process "
            f"{sum(attempt.processes == 1 for attempt in self.attempts)}, with two "
            f"{sum(attempt.processes == 2 for attempt in self.attempts)}",
            f"signals sent: {len(killed)}, of which {sum(attempt.trained for attempt in killed)} after the first "
            "logged step",
        ]
        for name in ("signal", "target", "moment"):
            counts = Counter(getattr(attempt, name) for attempt in killed)
            lines.append(f"  by {name}: {', '.join(f'{key} {count}' for key, count in counts.most_common())}")
        counts = Counter((attempt.signal, attempt.status) for attempt in killed)
        lines.append(f"  ended with: {', '.join(f'{s} {status}: {n}' for (s, status), n in sorted(counts.items()))}")
        return "\n".join(lines)


def rng_for(seed, number):
    return random.Random(f"{seed}/{number}")
