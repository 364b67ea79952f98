"""Training runs that are killed at random moments and go on: what the soak test starts, kills and watches.

Runs are programs of their own, started as users start them and each in a session of its own: whatever of it still
lives after its end is found in /proc by the number of the session, wherever its parent went.
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
# What draws random numbers in every step; `split_runs` has none of it.
RANDOM = {
    "detr": ["model.transformer.encoder.layer.ffn.ffn_drop=0.1"],
    "dino": ["model.denoising.label_noise_prob=0.5", "model.denoising.box_noise_scale=1.0"],
}
# In float64, what differs by rounding alone stays small. Denoising without noise does not: the differences whose signs
# are the gradient are zero but for rounding. Augmentations draw other numbers in float64, which loaders' workers do not
# know of where they are spawned.
ROUNDED = {
    "detr": ["dataloader.train.mapper.augmentation=null"],
    "dino": ["dataloader.train.mapper.augmentation=null", "model.denoising=null"],
}
MODELS = tuple(RANDOM)

# For whatever takes seconds on an idle machine, such as starting two processes or finishing a step and saving.
PATIENCE_SECONDS = 300.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Who gets the signal: the program that was started; every process of it, as from a terminal, a cluster or a crash of
# the machine; one that trains; one that loads images.
TARGETS = ("program", "all", "trainer", "worker")
# When: within the time that the uninterrupted run took from its start, or from its first logged step, or while a
# checkpoint is written.
MOMENTS = ("any time", *["in training"] * 3, *["while saving"] * 2)


def write_configs(folder):
    """Configs and data of the runs: `<model>.yaml`, and `<model>_float64.py` without random numbers in float64."""
    sizes = {"num_train": 10, "num_val": 5, "image_size": 48}
    generate_shapes(folder / "even", max_objects=1, empty_share=0, **sizes)
    generate_shapes(folder / "uneven", max_objects=3, empty_share=0.2, **sizes)
    for model in MODELS:
        cfg = split_runs.config(folder, "run", *LENGTHS, *RANDOM[model], model=model)
        LazyConfig.save(cfg, str(folder / f"{model}.yaml"))
        cfg = split_runs.config(folder, "run", *LENGTHS, *ROUNDED[model], model=model)
        LazyConfig.save(cfg, str(folder / f"{model}_plain.yaml"))
        # Each process executes it before it builds the model.
        (folder / f"{model}_float64.py").write_text(
            "import torch\n\nfrom detrex_lite.config import LazyConfig\n\ntorch.set_default_dtype(torch.float64)\n"
            f"globals().update(LazyConfig.load({str(folder / f'{model}_plain.yaml')!r}))\n"
        )


class Process(NamedTuple):
    pid: int
    parent: int
    command: str


def processes_of(session):
    """The living processes of a session. Those that ended and that nobody has waited for are none."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(its_session) == session and state not in "ZX":
                    command = (folder / "cmdline").read_text().replace("\0", " ")
                    found.append(Process(int(folder.name), int(parent), command))
    return found


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _signals_as_from_a_terminal():
    """A soak in the background, or under nohup, may ignore signals, and what it starts would inherit that."""
    for number in SIGNALS:
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)


class Program:
    """`tools/train_net.py`, which has been started in a session of its own.

    Args:
        config: the config file.
        output: the run's folder; what is printed goes to `<output>.txt`.
        processes: how many train.
        overrides: of the config.
        resume: whether it goes on with what is there.
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
                preexec_fn=_signals_as_from_a_terminal,
            )
        self.pid = self._program.pid

    def log(self):
        file = self.output / "log.txt"
        return file.read_text(errors="replace") if file.exists() else ""

    def logged(self):
        """What the log has got since the start."""
        return self.log()[self._logged_before :]

    def is_running(self):
        return self._program.poll() is None

    def trains(self):
        """Whether a step has been logged since the start."""
        return re.search(r"iteration \d+/", self.logged()) is not None

    def saves(self):
        return self.output.is_dir() and any(self.output.glob(".*.partial"))

    def wait(self):
        """Wait for its end, and for that of all processes it has started; returns the exit status.

        Raises:
            AssertionError: when one of them does not end; all of them are ended then.
        """
        try:
            status = self._program.wait(timeout=PATIENCE_SECONDS)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while left := processes_of(self.pid):
                assert time.monotonic() < deadline, f"{left} are left of a program that ended with status {status}"
                time.sleep(0.05)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{processes_of(self.pid)} did not end within {PATIENCE_SECONDS:.0f} s; see {self.printed}"
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
            return [one for one in alive if one.pid == self.pid]
        return [one for one in alive if one.parent == self.pid and "spawn_main" in one.command]

    def send(self, number, target, chance):
        """Send a signal to `target`, one of `TARGETS`, or to the program where there is none; returns who got it."""
        alive = processes_of(self.pid)
        trainers = self.trainers(alive)
        pids = {one.pid for one in trainers}
        loaders = [one for one in alive if one.parent in pids and "resource_tracker" not in one.command]
        chosen = {"trainer": trainers, "worker": loaders}.get(target)
        with contextlib.suppress(ProcessLookupError):
            if target == "all":
                os.killpg(self.pid, number)
            elif chosen:
                os.kill(chance.choice(chosen).pid, number)
            else:
                target = "program"
                os.kill(self.pid, number)
        return target


class Attempt(NamedTuple):
    """One start of a program, and what ended it."""

    processes: int
    signal: str
    target: str
    moment: str
    trained: bool
    status: int


def random_workers(chance):
    return [f"dataloader.{part}.num_workers={chance.choice((0, 1, 2))}" for part in ("train", "test")]


def run_with_kills(config, output, *overrides, processes, kills, seconds, chance):
    """Start a run, kill it `kills` times, and let it go on each time until it is done; gives an `Attempt` a start.

    Args:
        config: the config file.
        output: the run's folder.
        overrides: of the config.
        processes: the numbers of processes, of which each start takes one.
        kills: how often it is killed, unless it is done before.
        seconds: moment -> how long after it a signal may come, in seconds.
        chance: draws everything that is random.

    Raises:
        AssertionError: when something was lost, a process is left, or a start ends in another way than by its signal.
    """
    for number in range(kills + 1):
        count = chance.choice(processes)
        # Drawn before anything happens, so that a seed gives the same plan whatever the machine does.
        send, moment = chance.choice(SIGNALS), chance.choice(MOMENTS)
        target = chance.choice(TARGETS if send == signal.SIGKILL else TARGETS[:3])
        delay = chance.uniform(0.0, seconds.get(moment, 0.0))
        workers = random_workers(chance)
        before = saved_iteration(output)
        program = Program(config, output, *overrides, *workers, processes=count, resume=number > 0)
        trained = False
        try:
            if number < kills:
                _wait_for(moment, delay, program)
                trained = program.trains()
                target = program.send(send, target, chance) if program.is_running() else "nobody"
            status = program.wait() if number < kills else _wait_long(program)
        finally:
            program.end()
        if number == kills or target == "nobody":
            attempt = Attempt(count, "none", "nobody", "", trained, status)
        else:
            attempt = Attempt(count, send.name, target, moment, trained, status)
        yield attempt
        assert saved_iteration(output) >= before
        went_on = re.search(r"Continuing from \S+, after iteration (\d+)\.", program.logged())
        # Later, where it was killed between a checkpoint and the file that names it as the newest.
        assert went_on is None or int(went_on[1]) >= before, f"saved after iteration {before}, and: {went_on[0]}"
        require_nothing_lost(attempt, program)
        if status == 0:
            return
        assert status != 2, f"the start was refused; see {program.printed}"
        assert attempt.signal != "none", f"status {status} without a signal; see {program.printed}"
    raise AssertionError(f"the run in {output} did not end")


def run_whole(config, output, *overrides, processes):
    """Run to the end; returns `seconds` for `run_with_kills`."""
    start = time.monotonic()
    program = Program(config, output, *overrides, processes=processes)
    try:
        while program.is_running() and not program.trains():
            time.sleep(0.02)
        trains = time.monotonic()
        assert _wait_long(program) == 0, program.printed.read_text()
    finally:
        program.end()
    end = time.monotonic()
    # Half of it, as a run that goes on has less before it.
    return {"any time": end - start, "in training": (end - trains) / 2}


def _wait_for(moment, delay, program):
    deadline = time.monotonic() + (delay if moment == "any time" else PATIENCE_SECONDS)
    while program.is_running() and time.monotonic() < deadline:
        if moment == "in training" and program.trains():
            deadline, moment = time.monotonic() + delay, "any time"
        if moment == "while saving" and program.trains() and program.saves():
            return
        time.sleep(0.002 if moment == "while saving" else 0.02)


def _wait_long(program):
    """For a run that nobody ends."""
    deadline = time.monotonic() + 10 * PATIENCE_SECONDS
    while program.is_running():
        assert time.monotonic() < deadline, f"the run has not ended; see {program.printed}"
        time.sleep(0.1)
    return program.wait()


def saved_iteration(output):
    """Of the checkpoint that is named as the newest; 0 without one."""
    file = output / "last_checkpoint"
    if not file.exists():
        return 0
    return torch.load(output / file.read_text(), weights_only=True, mmap=True)["iteration"]


def require_nothing_lost(attempt, program):
    """After a signal: what had to be saved is saved, and the start that was interrupted went on where it had to.

    Raises:
        AssertionError: with what was lost.
    """
    log, saved = program.logged(), saved_iteration(program.output)
    stopped = re.search(r"Stopped after iteration (\d+), which is saved", log)
    if stopped is not None:
        assert saved == int(stopped[1]), f"{stopped[0]}, and the newest checkpoint is {saved}"
    elif attempt.signal in ("SIGTERM", "SIGINT") and attempt.trained and attempt.status != 0:
        assert (program.output / "model_final.pth").exists(), f"{attempt} saved nothing; see {program.printed}"
    steps = [int(number) for number in re.findall(r"iteration (\d+)/", log)]
    # The line of a step is written before its checkpoint.
    due = (steps[-1] - 1) // CHECKPOINT_PERIOD * CHECKPOINT_PERIOD if steps else 0
    assert saved >= due, f"{steps[-1]} steps were made, and the newest checkpoint is {saved}"


class Tally:
    """What a soak has done, for its report."""

    def __init__(self):
        self.attempts = []
        self.compared = Counter()

    def table(self):
        killed = [one for one in self.attempts if one.signal != "none"]
        lines = [
            f"runs compared with uninterrupted ones: {sum(self.compared.values())} "
            f"({', '.join(f'{name}: {count}' for name, count in sorted(self.compared.items()))})",
            f"programs started for them: {len(self.attempts)}, with one process "
            f"{sum(one.processes == 1 for one in self.attempts)}, with two "
            f"{sum(one.processes == 2 for one in self.attempts)}",
            f"signals sent: {len(killed)}, of which {sum(one.trained for one in killed)} after the first logged step",
        ]
        for name in ("signal", "target", "moment"):
            counts = Counter(getattr(one, name) for one in killed)
            lines.append(f"  by {name}: {', '.join(f'{key} {count}' for key, count in counts.most_common())}")
        counts = Counter((one.signal, one.status) for one in killed)
        lines.append(f"  ended with: {', '.join(f'{s} {status}: {n}' for (s, status), n in sorted(counts.items()))}")
        return "\n".join(lines)


def chance_of(seed, number):
    return random.Random(f"{seed}/{number}")
