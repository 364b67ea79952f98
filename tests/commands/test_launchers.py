"""Training as started on clusters: by torchrun, by a Slurm job, on two machines, and by a parent that is killed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detrex_lite.metrics_file import read_metrics
from tests.engine.tiny import CONFIG_FILE

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.slow


def wait_until(condition, process, log, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_processes_restarted_by_torchrun_resume_from_the_checkpoint(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    kill = [
        "--trust",
        "tests",
        "dataloader.train._target_=tests.engine.children.RankLoader",
        "+dataloader.train.event=kill",
    ]
    result = subprocess.run(
        [
            *torchrun,
            *("tools/train_net.py", "--config-file", str(CONFIG_FILE), f"train.output_dir={tmp_path}"),
            *(*kill, "+dataloader.train.event_at=3"),
        ],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 6
    log = (tmp_path / "log.txt").read_text()
    assert re.search(r"Continuing from \S+/model_0000002.pth, after iteration 2", log)
    assert "2 by gloo" in log
    assert [record["iteration"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 6]


def children_of(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="the processes are found through Linux's /proc"
)


def test_an_error_in_one_process_ends_all_without_a_launcher(tmp_path):
    """srun and mpirun may not watch the processes: the other process must notice in the middle of a step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    faulty = ["dataloader.train._target_=tests.engine.children.RankLoader", "+dataloader.train.event=label"]
    faulty += ["+dataloader.train.event_at=3", "model._target_=tests.engine.children.Detector", "--trust", "tests"]
    command = [sys.executable, "tools/train_net.py", "--config-file", str(CONFIG_FILE), *faulty]
    rendezvous = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [*command, f"train.output_dir={tmp_path}"],
            cwd=REPOSITORY,
            env={**ENVIRONMENT, **rendezvous, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert all(process.returncode for process in processes), errors
    assert "process 0 lost its connection" in errors[0]
    assert "process 1, 6.jpg has an object of class 7" in errors[1]


@needs_proc
def test_two_machines_train_together_and_end_together(tmp_path):
    """Simulates both machines on this one; a process of the second is killed, and each machine reports its part."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machines, logs = [], [tmp_path / "stderr_0.txt", tmp_path / "stderr_1.txt"]
    output = tmp_path / "output"
    for number, log in enumerate(logs):
        command = [sys.executable, "tools/train_net.py", "--config-file", str(CONFIG_FILE), "--num-machines", "2"]
        rendezvous = ["--machine-rank", str(number), "--dist-url", f"tcp://127.0.0.1:{port}"]
        overrides = [f"train.output_dir={output}", "train.max_iter=1000000", "train.log_period=1000000"]
        with log.open("w") as stderr:
            machines.append(
                subprocess.Popen([*command, *rendezvous, *overrides], cwd=REPOSITORY, env=ENVIRONMENT, stderr=stderr)
            )
    try:
        wait_until((output / "last_checkpoint").exists, machines[0], logs[0])
        for child in children_of(machines[1]):
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(int(child), signal.SIGKILL)
        assert machines[1].wait(timeout=60) == 128 + signal.SIGKILL
        assert machines[0].wait(timeout=60) == 1
    finally:
        for machine in machines:
            machine.kill()
    assert "2 by gloo" in (output / "log.txt").read_text()
    assert "error: process 1 failed, and so the run ends: killed by SIGKILL" in logs[1].read_text()
    assert "process 0 lost its connection to another process" in logs[0].read_text()


@needs_proc
def test_processes_whose_parent_is_killed_save_a_checkpoint_and_end(tmp_path):
    log = tmp_path / "stderr.txt"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [
                *(sys.executable, "tools/train_net.py", "--config-file", str(CONFIG_FILE), "--num-processes", "2"),
                *(f"train.output_dir={tmp_path}", "train.max_iter=1000000", "train.log_period=1000000"),
            ],
            cwd=REPOSITORY,
            env=ENVIRONMENT,
            stderr=stderr,
        )
    try:
        wait_until((tmp_path / "last_checkpoint").exists, process, log)
        children = children_of(process)
        assert len(children) >= 2
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    stopped = (tmp_path / "last_checkpoint").read_text()
    assert f"Stopped after iteration {int(stopped[6:13])}, which is saved" in (tmp_path / "log.txt").read_text()


@pytest.fixture
def slurm(tmp_path):
    """Return the environment of a job of two processes on one machine, with stand-ins for Slurm's programs."""
    programs = {
        "srun": 'while [[ $1 == -* ]]; do shift; done\nexec "$@"',
        "scontrol": f'if [[ $1 == show ]]; then echo localhost; else echo "$@" >> {tmp_path}/requeued; fi',
    }
    (tmp_path / "bin").mkdir()
    for name, body in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1]",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
    }
    return {**ENVIRONMENT, **job, "PATH": path}


def test_the_slurm_example_saves_at_the_time_limit_and_resumes(tmp_path, slurm):
    def start(*overrides):
        with log.open("a") as stderr:
            return subprocess.Popen(
                ["bash", "docs/train.sbatch", str(CONFIG_FILE), f"train.output_dir={output}", *overrides],
                cwd=REPOSITORY,
                env=slurm,
                stderr=stderr,
            )

    output, log = tmp_path / "output", tmp_path / "stderr.txt"
    job = start("train.max_iter=1000000", "train.log_period=1000000")
    try:
        wait_until((output / "last_checkpoint").exists, job, log)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=60) != 0
    finally:
        job.kill()
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
    stopped = int((output / "last_checkpoint").read_text()[6:13])
    text = (output / "log.txt").read_text()
    assert f"Stopped after iteration {stopped}, which is saved" in text
    assert start(f"train.max_iter={stopped + 2}").wait(timeout=90) == 0, log.read_text()
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == stopped + 2
    assert f"after iteration {stopped}." in (output / "log.txt").read_text()
