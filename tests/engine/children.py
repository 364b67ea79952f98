"""Functions that run in the processes of `test_launch.py` and other tests; new processes import them by name."""

import json
import multiprocessing
import os
import signal
import time

import torch

from detrex_lite import distributed
from detrex_lite.config import trust
from detrex_lite.data import DetrDatasetMapper
from detrex_lite.engine import train
from detrex_lite.engine.processes.launch import times_restarted
from detrex_lite.errors import NonFiniteError

from .tiny import TinyDetector, TinyLoader, tiny_config


class RankLoader(TinyLoader):
    """Gives each process different batches. At batch `event_at`, process 1 receives a signal, is killed, or gets a
    broken image or a wrong label; a process that torchrun has restarted is spared.
    """

    def __init__(self, *, event=None, event_at=None, **arguments):
        super().__init__(**arguments)
        self.event = event
        self.event_at = event_at

    def _batches(self, number):
        for batch in super()._batches(number):
            for record in batch:
                record["image_id"] += 1000 * distributed.rank()
                record["file_name"] = f"process {distributed.rank()}, {record['file_name']}"
            if distributed.rank() == 1 and number == self.event_at and times_restarted() == 0:
                if self.event == "signal":
                    os.kill(os.getpid(), signal.SIGTERM)
                if self.event == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if self.event == "error":
                    batch[0]["broken"] = True
                if self.event == "label":
                    batch[0]["label"] = 7
            number += 1
            yield batch


class Detector(TinyDetector):
    def forward(self, batched_inputs):
        for record in batched_inputs:  # before processes exchange anything in this step
            if record.get("label", 0) >= self.num_classes:
                raise ValueError(f"{record['file_name']} has an object of class {record['label']}")
        # Criteria normalise by the number of boxes of all processes in this way.
        distributed.mean_over_processes(torch.tensor(float(len(batched_inputs))))
        if any("broken" in record for record in batched_inputs):
            raise NonFiniteError("a cost is not finite")
        return super().forward(batched_inputs)


class SlowToBuild(TinyDetector):
    """A detector whose constructor takes longer than any timeout."""

    def __init__(self, **arguments):
        time.sleep(600)
        super().__init__(**arguments)


def config(folder, *overrides):
    cfg = tiny_config(folder, "train.accumulate_steps=2", "train.model_ema.enabled=True", *overrides)
    cfg.model._target_ = "tests.engine.children.Detector"
    cfg.dataloader.train._target_ = "tests.engine.children.RankLoader"
    trust("tests")  # in each process
    return cfg


def several_runs(folder):
    """Train a whole run, a stopped and resumed one, and a failing one; report the results of this process."""
    report = {"world_size": distributed.world_size(), "threads": torch.get_num_threads()}
    report["start_method"] = multiprocessing.get_start_method()
    report["results"] = train(config(folder / "whole"))
    try:
        train(config(folder / "broken", "+dataloader.train.event=signal", "+dataloader.train.event_at=5"))
    except SystemExit as stopped:
        report["stopped"] = stopped.code
    train(config(folder / "broken"), resume=True)
    try:
        train(
            config(
                folder / "error",
                "train.ddp.fp16_compression=True",
                "+dataloader.train.event=error",
                "+dataloader.train.event_at=4",
            )
        )
    except NonFiniteError as error:
        report["error"] = str(error)
    (folder / f"report_{distributed.rank()}.json").write_text(json.dumps(report))


def train_and_kill_process_1(folder):
    """Kill process 1 in its third step, as the system does when memory is exhausted."""
    train(config(folder, "+dataloader.train.event=kill", "+dataloader.train.event_at=5"))


class WorkerKiller:
    """A mapper that kills the process that loads the image with this id."""

    def __init__(self, *, image_id):
        self.mapper = DetrDatasetMapper(is_train=True)
        self.image_id = image_id

    def __call__(self, record):
        if record["image_id"] == self.image_id:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.mapper(record)


def fail_in_process_1():
    """Make process 1 fail while process 0 is busy for a long time."""
    if distributed.rank() == 1:
        raise SystemExit(7)
    time.sleep(600)
