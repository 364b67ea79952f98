"""Ending a run when the user or the cluster asks for it, without losing what was trained."""

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from ... import distributed
from ..io.state import TrainingState, checkpoint_name
from ..loop.trainer import Hook, Trainer

logger = logging.getLogger(__name__)

# Ctrl-C, a terminal that is closed, and what clusters send before a job's time is over.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

# Ctrl-C reaches every process of a terminal, and launchers pass signals on: one request may arrive twice.
SAME_REQUEST_SECONDS = 1.0

INTERRUPTED = "Interrupted; nothing was saved."


def signals_to_heed() -> list[signal.Signals]:
    """`SIGNALS` without SIGHUP where it was ignored when the program began: so nohup lets programs go on."""
    return [one for one in SIGNALS if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]


def end_when_interrupted(*, says_so: bool = True) -> None:
    """From here on Ctrl-C ends this process with a line and status 130, not with a traceback; a second one at once.

    While it trains, `StopOnSignal` takes the place of this.

    Args:
        says_so: print the line; for one of several processes.
    """
    process, received_at = os.getpid(), -math.inf

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal received_at
        if os.getpid() != process:
            return  # a loader's worker, forked with this handler
        if received_at > -math.inf:
            if time.monotonic() - received_at >= SAME_REQUEST_SECONDS:
                os._exit(128 + number)
            return
        received_at = time.monotonic()
        if says_so:
            print(INTERRUPTED, file=sys.stderr)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, end)


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Inside, signals wait, in processes that are started here too, until those call `take_signals`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_signals() -> None:
    """In a process that was started within `signals_held_back`: take what has come since."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class _EvaluationInterrupted(BaseException):
    """Leaves an evaluation. Not an `Exception`, so that nothing on the way takes it for a fault."""


class StopOnSignal(Hook):
    """On one of `SIGNALS`: finishes the step, saves a checkpoint and ends with status 128 + the signal's number.

    With several processes all of them stop after the same step, whichever got the signal. A second signal
    ends the process at once. Handlers can be set in the main thread only; elsewhere this hook does nothing.

    Args:
        state: what is saved.
    """

    def __init__(self, state: TrainingState):
        self._state = state
        self._trainer: Trainer | None = None
        self._previous: dict[int, Any] = {}
        self._received_at: float | None = None
        self._may_raise = False
        self._process = os.getpid()

    def before_train(self, trainer: Trainer) -> None:
        self._trainer = trainer
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in signals_to_heed()}

    def after_step(self, trainer: Trainer) -> None:
        # After the last step there is nothing to gain: the final checkpoint is due.
        if self._agreed(trainer) and trainer.iteration < trainer.max_iter:
            self._finish(trainer)

    def close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @contextlib.contextmanager
    def interruptible(self, trainer: Trainer) -> Iterator[None]:
        """Inside, a signal leaves the block at once and ends the run: for evaluation, which may take long.

        With several processes evaluation ends first: processes that wait for each other cannot leave alone.
        """
        try:
            self._may_raise = not distributed.is_distributed()
            if self._agreed(trainer):
                raise _EvaluationInterrupted
            yield
            self._may_raise = False
        except _EvaluationInterrupted:
            self._may_raise = False
            self._finish(trainer)
        finally:
            self._may_raise = False

    @staticmethod
    def _agreed(trainer: Trainer) -> int:
        """The signal to stop by, the same on all processes; 0 without one."""
        return trainer.stop_signal if distributed.is_distributed() else trainer.stop_requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process or self._trainer is None:
            return  # a loader's worker, forked with this handler: its parent says when to end
        now = time.monotonic()
        if self._received_at is not None:
            if now - self._received_at >= SAME_REQUEST_SECONDS:
                os._exit(128 + number)
            return
        self._received_at = now
        self._trainer.stop_requested = number
        name = signal.Signals(number).name
        logger.warning("%s: saving after this step and then stopping; a second one stops at once.", name)
        if self._may_raise:
            raise _EvaluationInterrupted

    def _finish(self, trainer: Trainer) -> None:
        # Before the first step of this process nothing is new, and random numbers are not at their place yet.
        if trainer.iteration == trainer.start_iteration:
            logger.info("Stopped before a step was made: there is nothing new to save.")
        else:
            if self._state.saved_iteration != trainer.iteration:
                self._state.save(checkpoint_name(trainer.iteration))
            logger.info("Stopped after iteration %d, which is saved; go on with --resume.", trainer.iteration)
        raise SystemExit(128 + self._agreed(trainer))


class LeaveSignalsToParent:
    """A loader's `worker_init_fn`: the worker ends when its parent says so, and by no other signal.

    A cluster signals every process of a job, and the parent needs the workers' batches to finish its step. A worker
    whose parent was killed while it started ends, too: torch's own watch takes whoever is the parent then for it.

    Args:
        inner: the `worker_init_fn` that the loader had, or None.
    """

    def __init__(self, inner: Callable[[int], None] | None = None):
        self.inner = inner
        self.parent = os.getpid()

    def __call__(self, worker: int) -> None:
        if os.getppid() != self.parent:
            os._exit(1)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):  # not on macOS
            # Ignoring SIGTERM would not do: it is also how the parent ends its workers.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_end_when_asked_by, args=(self.parent,), daemon=True).start()
        if self.inner is not None:
            self.inner(worker)


def _end_when_asked_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
