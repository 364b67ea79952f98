"""An hour of training runs that are killed at random moments and go on: nothing is lost, and memory does not grow.

`make soak` runs it (`SOAK_MINUTES`, 10 unless given). A round is reproduced by the seed that is printed first and by
its number: `SOAK_SEED=... SOAK_FIRST_ROUND=...`; when a signal arrives depends on the machine, what is drawn does not.
"""

import itertools
import json
import os
import secrets
import shutil
import statistics
import time
import traceback
from pathlib import Path

import pytest
import torch

from . import soak
from .test_resume import assert_same_run
from .test_two_processes import assert_equal_runs

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
SEED = os.environ.get("SOAK_SEED") or secrets.token_hex(4)
FIRST_ROUND = int(os.environ.get("SOAK_FIRST_ROUND", "1"))
# The rest of the time is for the rounds of kills.
MEMORY_SHARE = 1 / 8  # of each model

# What goes on with as many processes as before, and what with other numbers of them in turn.
ROUNDS = (("one process", (1,)), ("two processes", (2,)), ("one and two in turn", (1, 2)))

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found through Linux's /proc"),
]


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak")
    soak.write_configs(folder)
    say(f"soak: SOAK_SEED={SEED} SOAK_MINUTES={MINUTES:g}, torch {torch.__version__}, {os.cpu_count()} cores; {folder}")
    return folder


def files_of(run):
    """Names of what a run leaves, without those that tell when it was stopped."""
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(("events.", "model_0", "log.rank"))}


def assert_nothing_is_left(whole, broken):
    assert files_of(broken) == files_of(whole)
    assert not list(broken.rglob("*.partial"))
    assert 1 <= len(list(broken.glob("model_0*.pth"))) <= 2  # train.checkpointer.max_to_keep


def assert_same_files(whole, broken):
    """What else is the same to the last bit: the best checkpoint, the lines of the log of numbers, the detections."""
    best = [torch.load(run / "model_best.pth", weights_only=True) for run in (whole, broken)]
    for part in ("model", "ema", "optimizer", "iteration", "batches"):
        torch.testing.assert_close(best[1][part], best[0][part], rtol=0, atol=0)
    found = [json.loads((run / "evaluation" / "predictions.json").read_text()) for run in (whole, broken)]
    assert found[0] == found[1]
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (whole, broken)]
    assert len(lines[0]) == len(lines[1])


def one_round(folder, number, tally):
    """An uninterrupted run, and the same one with kills."""
    chance = soak.chance_of(SEED, number)
    kind, processes = ROUNDS[number % len(ROUNDS)]
    model = soak.MODELS[number // len(ROUNDS) % len(soak.MODELS)]
    mixed = len(processes) > 1
    config = folder / (f"{model}_float64.py" if mixed else f"{model}.yaml")
    seed = f"train.seed={chance.randrange(2**31)}"
    kills = chance.randint(3, 6)
    whole, broken = folder / f"{number}_whole", folder / f"{number}_broken"

    say(f"round {number}: {model}, {kind}, {kills} kills, {seed}")
    seconds = soak.run_whole(config, whole, seed, *soak.random_workers(chance), processes=processes[0])
    for attempt in soak.run_with_kills(
        config, broken, seed, processes=processes, kills=kills, seconds=seconds, chance=chance
    ):
        say(f"  {attempt}")
        tally.attempts.append(attempt)
    assert_nothing_is_left(whole, broken)
    if mixed:
        assert_equal_runs(whole, broken, steps=soak.STEPS)
    else:
        assert_same_run(whole, broken)
        assert_same_files(whole, broken)
    tally.compared[f"{model}, {kind}"] += 1
    for run in (whole, broken):  # those of a round that failed stay
        shutil.rmtree(run)


def test_killed_runs_end_as_those_that_were_not(folder):
    deadline = time.monotonic() + 60 * MINUTES * (1 - MEMORY_SHARE * len(soak.MODELS))
    tally, failed = soak.Tally(), []
    for number in itertools.count(FIRST_ROUND):
        try:
            one_round(folder, number, tally)
        except AssertionError:  # the others are worth knowing, too
            say(f"round {number} FAILED\n{traceback.format_exc()}")
            failed.append(number)
        if time.monotonic() > deadline:
            break
    say(f"soak: SOAK_SEED={SEED}\n{tally.table()}")
    assert not failed


# A batch of 4 images of 48 x 48 in float32 is 108 KiB, and what a step keeps for its backward pass some MiB: holding on
# to one of them each step exceeds this within a hundred steps. Single numbers that are kept, 100 bytes a step, do not.
MAX_GROWTH = 8 * 2**20


@pytest.mark.parametrize("model", soak.MODELS)
def test_memory_does_not_grow(folder, model):
    """That of the training process, in a run with evaluations, from a third of its time on."""
    output = folder / f"memory_{model}"
    overrides = ["train.max_iter=1000000", "train.eval_period=20", "train.checkpointer.period=50"]
    # Few lines in the log: the report of each evaluation reads all of them, which takes 2.6 KiB a line.
    overrides += ["train.log_period=100", "dataloader.train.num_workers=1"]
    program = soak.Program(folder / f"{model}.yaml", output, *overrides)
    samples = []
    try:
        while program.is_running() and not program.trains():
            time.sleep(0.1)
        start = time.monotonic()
        while program.is_running() and time.monotonic() - start < 60 * MINUTES * MEMORY_SHARE:
            samples.append(soak.resident_bytes(program.pid))
            time.sleep(0.05)
        program.send(soak.signal.SIGTERM, "program", None)
        assert program.wait() == 143, program.printed.read_text()
    finally:
        program.end()
    steps = soak.saved_iteration(output)
    # Evaluations and checkpoints take memory for a moment: what is there between them is the median.
    parts = [samples[len(samples) * k // 6 : len(samples) * (k + 1) // 6] for k in range(6)]
    medians = [statistics.median(part) for part in parts]
    listed = ", ".join(f"{median / 2**20:.1f}" for median in medians)
    say(f"memory of {model}: {steps} steps, {len(samples)} samples; medians of sixths: {listed} MiB")
    assert steps > 20
    assert medians[-1] - medians[2] < MAX_GROWTH, listed
    shutil.rmtree(output)
