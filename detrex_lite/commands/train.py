"""Training a detector on a folder of images, or what a config describes."""

import argparse
import contextlib
import signal
import threading
from collections.abc import Iterator

from .. import distributed
from ..engine import clear_errors, device_of, end_when_interrupted, find_engine, launch
from .configs import plan_of, settled


def run(args: argparse.Namespace) -> int:
    """Train, or evaluate with `--eval-only`; see `detrex_lite.cli.train`."""
    start_processes(args)
    return 0


def start_processes(args: argparse.Namespace) -> None:
    """Train or evaluate in the processes that the arguments ask for.

    Raises:
        SystemExit: when anything was wrong, which has been told.
    """
    with interruption_in_one_line(), clear_errors(with_traceback=args.traceback):
        plan = plan_of(args)
        if plan.settings and distributed.is_main_process():
            print(plan.describe(), flush=True)
        launch(
            run_config,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            device=device_of(plan.cfg),
            args=(settled(args, plan),),
        )


def run_config(args: argparse.Namespace) -> None:
    """What each process does."""
    with clear_errors(with_traceback=args.traceback):
        cfg = plan_of(args).cfg
        train, evaluate = find_engine(args.engine)
        if args.eval_only:
            evaluate(cfg)
        else:
            train(cfg, resume=args.resume)


@contextlib.contextmanager
def interruption_in_one_line() -> Iterator[None]:
    """Inside, Ctrl-C ends the program with a line and status 130."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    end_when_interrupted()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
