"""Training runs that are killed at random moments and resumed lose no progress, and their memory does not grow.

`make soak` runs these tests for `SOAK_MINUTES`, 10 by default. To reproduce a round, set the seed that is printed
first and the number of the round: `SOAK_SEED=... SOAK_FIRST_ROUND=...`. The random choices are then the same; when a
signal arrives depends on the machine.
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
# The fraction of the time for the memory test of each model; the rest is for the rounds of kills.
MEMORY_FRACTION = 1 / 8

# (name, the numbers of processes from which each start draws one)
ROUNDS = (("one process", (1,)), ("two processes", (2,)), ("one and two in turn", (1, 2)))

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found through Linux's /proc"),
]


def log_line(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak")
    soak.write_configs(folder)
    log_line(
        f"soak: SOAK_SEED={SEED} SOAK_MINUTES={MINUTES:g}, torch {torch.__version__}, {os.cpu_count()} cores; {folder}"
    )
    return folder


def files_of(run):
    """Return the names of the files of a run, except those that depend on when it was stopped.

    `report_decoder.json` depends on the number of processes at the end: only a run of one process writes it.
    """
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(("events.", "model_0", "log.rank", "report_decoder"))}


def assert_no_partial_files(whole, broken):
    assert files_of(broken) == files_of(whole)
    assert not list(broken.rglob("*.partial"))
    assert 1 <= len(list(broken.glob("model_0*.pth"))) <= 2  # train.checkpointer.max_to_keep


def assert_same_files(whole, broken):
    """Compare exactly the best checkpoint and the detections, and the number of lines in `metrics.jsonl`."""
    best = [torch.load(run / "model_best.pth", weights_only=True) for run in (whole, broken)]
    for part in ("model", "ema", "optimizer", "iteration", "batches"):
        torch.testing.assert_close(best[1][part], best[0][part], rtol=0, atol=0)
    detections = [json.loads((run / "evaluation" / "predictions.json").read_text()) for run in (whole, broken)]
    assert detections[0] == detections[1]
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (whole, broken)]
    assert len(lines[0]) == len(lines[1])


def run_round(folder, number, tally):
    """Compare an uninterrupted run with the same run with kills."""
    rng = soak.rng_for(SEED, number)
    kind, processes = ROUNDS[number % len(ROUNDS)]
    model = soak.MODELS[number // len(ROUNDS) % len(soak.MODELS)]
    mixed = len(processes) > 1
    config = folder / (f"{model}_float64.py" if mixed else f"{model}.yaml")
    seed = f"train.seed={rng.randrange(2**31)}"
    kills = rng.randint(3, 6)
    whole, broken = folder / f"{number}_whole", folder / f"{number}_broken"

    log_line(f"round {number}: {model}, {kind}, {kills} kills, {seed}")
    seconds = soak.run_whole(config, whole, seed, *soak.random_workers(rng), processes=processes[0])
    for attempt in soak.run_with_kills(
        config, broken, seed, processes=processes, kills=kills, seconds=seconds, rng=rng
    ):
        log_line(f"  {attempt}")
        tally.attempts.append(attempt)
    assert_no_partial_files(whole, broken)
    if mixed:
        assert_equal_runs(whole, broken, steps=soak.STEPS)
    else:
        assert_same_run(whole, broken)
        assert_same_files(whole, broken)
    tally.compared[f"{model}, {kind}"] += 1
    for run in (whole, broken):  # runs of a failed round are kept
        shutil.rmtree(run)


def test_killed_and_resumed_runs_equal_uninterrupted_ones(folder):
    deadline = time.monotonic() + 60 * MINUTES * (1 - MEMORY_FRACTION * len(soak.MODELS))
    tally, failed = soak.Tally(), []
    for number in itertools.count(FIRST_ROUND):
        try:
            run_round(folder, number, tally)
        except AssertionError:  # the remaining rounds still run
            log_line(f"round {number} FAILED\n{traceback.format_exc()}")
            failed.append(number)
        if time.monotonic() > deadline:
            break
    log_line(f"soak: SOAK_SEED={SEED}\n{tally.table()}")
    assert not failed


# A batch of 4 images of 48 x 48 in float32 is 108 KiB, and the activations of a step are some MiB: leaking either in
# each step exceeds this limit within a hundred steps. Leaking 100 bytes a step, such as single numbers, does not.
MAX_GROWTH = 8 * 2**20


@pytest.mark.parametrize("model", soak.MODELS)
def test_memory_does_not_grow(folder, model):
    """Measures the training process from a third of its time on, in a run with evaluations."""
    output = folder / f"memory_{model}"
    overrides = ["train.max_iter=1000000", "train.eval_period=20", "train.checkpointer.period=50"]
    # Few log lines, since the report of each evaluation reads all of them, which takes 2.6 KiB a line.
    overrides += ["train.log_period=100", "dataloader.train.num_workers=1"]
    program = soak.Program(folder / f"{model}.yaml", output, *overrides)
    samples = []
    try:
        while program.is_running() and not program.is_training():
            time.sleep(0.1)
        start = time.monotonic()
        while program.is_running() and time.monotonic() - start < 60 * MINUTES * MEMORY_FRACTION:
            samples.append(soak.resident_bytes(program.pid))
            time.sleep(0.05)
        program.send(soak.signal.SIGTERM, "program", None)
        assert program.wait() == 143, program.printed.read_text()
    finally:
        program.end()
    steps = soak.saved_iteration(output)
    # Evaluations and checkpoints take memory for a moment; the median is the memory between them.
    parts = [samples[len(samples) * k // 6 : len(samples) * (k + 1) // 6] for k in range(6)]
    medians = [statistics.median(part) for part in parts]
    medians_in_mib = ", ".join(f"{median / 2**20:.1f}" for median in medians)
    log_line(f"memory of {model}: {steps} steps, {len(samples)} samples; medians of sixths: {medians_in_mib} MiB")
    assert steps > 20
    assert medians[-1] - medians[2] < MAX_GROWTH, medians_in_mib
    shutil.rmtree(output)
