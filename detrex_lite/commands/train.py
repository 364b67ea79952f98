"""Training a detector on a folder of images, or as a config describes."""

import argparse
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from .. import distributed
from ..cli.trials import is_trial
from ..engine import clear_errors, device_of, end_when_interrupted, find_engine, launch
from ..engine.for_folder import Plan
from .configs import plan_of, settle
from .trials import run_trial


def run(args: argparse.Namespace) -> int:
    """Train, evaluate with `--eval-only`, or run a trial; see `detrex_lite.cli.train`."""
    if is_trial(args):
        return try_out(args)

    def prepare() -> str:
        plan = announced(plan_of(args))
        settle(args, plan)
        return device_of(plan.cfg)

    start_processes(args, run_config, prepare)
    return 0


def try_out(args: argparse.Namespace) -> int:
    """Run the trial that an option of `detrex_lite.cli.trials` selects."""
    with interruption_in_one_line(), clear_errors(with_traceback=args.traceback):
        return run_trial(args, announced(plan_of(args)).cfg)


def announced(plan: Plan) -> Plan:
    """Print the settings of a plan with their reasons; returns the plan."""
    if plan.settings and distributed.is_main_process():
        print(plan.describe(), flush=True)
    return plan


def start_processes(
    args: argparse.Namespace, main: Callable[[argparse.Namespace], None], prepare: Callable[[], str]
) -> None:
    """Run `main(args)` in as many processes as the arguments specify.

    Args:
        args: include those of `detrex_lite.cli.arguments.add_process_arguments`.
        main: a function that can be imported by name.
        prepare: is called before the processes start, and returns the device.

    Raises:
        SystemExit: after an error, which has been printed.
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
    """Train or evaluate the config; runs in each process."""
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
    previous = signal.getsignal(signal.SIGINT)
    end_when_interrupted()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
