"""Training a detector on a folder of images, or what a config describes."""

import argparse
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from .. import distributed
from ..engine import clear_errors, device_of, end_when_interrupted, find_engine, launch
from .configs import plan_of, settle


def run(args: argparse.Namespace) -> int:
    """Train, or evaluate with `--eval-only`; see `detrex_lite.cli.train`."""

    def prepare() -> str:
        plan = plan_of(args)
        if plan.settings and distributed.is_main_process():
            print(plan.describe(), flush=True)
        settle(args, plan)
        return device_of(plan.cfg)

    start_processes(args, run_config, prepare)
    return 0


def start_processes(
    args: argparse.Namespace, main: Callable[[argparse.Namespace], None], prepare: Callable[[], str]
) -> None:
    """Run `main(args)` in the processes that the arguments ask for.

    Args:
        args: with those of `detrex_lite.cli.arguments.add_process_arguments`.
        main: a function that can be imported by name.
        prepare: is called before, and returns the device.

    Raises:
        SystemExit: when anything was wrong, which has been told.
    """
    with interruption_in_one_line(), clear_errors(with_traceback=args.traceback):
        device = prepare()
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            device=device,
            args=(args,),
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
