"""Ends a run when the user or the cluster asks for it, without losing progress."""

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

# Sent by Ctrl-C, by a terminal that is closed, and by clusters before a job's time is over.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

# Ctrl-C reaches every process of a terminal and launchers forward signals, so one request may arrive twice.
SAME_REQUEST_SECONDS = 1.0

INTERRUPTED = "Interrupted; nothing was saved."


def signals_to_heed() -> list[signal.Signals]:
    """`SIGNALS`, without SIGHUP when the program was started with SIGHUP ignored, as nohup does."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def end_when_interrupted(*, says_so: bool = True) -> None:
    """From now on, Ctrl-C ends this process with a one-line message and status 130 instead of a traceback.

    A second Ctrl-C ends the process immediately. During training `StopOnSignal` replaces this handler.

    Args:
        says_so: print the message; of several processes only one should.
    """
    process, received_at = os.getpid(), -math.inf

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal received_at
        if os.getpid() != process:
            return  # a worker of a loader, which was forked with this handler
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
    """Inside this context, signals are blocked; processes started in it unblock them by `take_signals`."""
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def take_signals() -> None:
    """Unblock signals in a process that was started within `signals_held_back`; pending ones are delivered."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class _EvaluationInterrupted(BaseException):
    """Leaves an evaluation. It is not an `Exception`, so that no `except Exception` catches it on the way."""


class StopOnSignal(Hook):
    """On one of `SIGNALS`, finishes the step, saves a checkpoint and exits with status 128 + the signal's number.

    When there are several processes, all of them stop after the same step, whichever received the signal. A second
    signal ends the process immediately. Signal handlers can only be set in the main thread; in other threads this hook
    does nothing.

    Args:
        state: the training state to save.
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
        # After the last step there is no need to stop: the final checkpoint is saved next.
        if self._agreed(trainer) and trainer.iteration < trainer.max_iter:
            self._finish(trainer)

    def close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @contextlib.contextmanager
    def interruptible(self, trainer: Trainer) -> Iterator[None]:
        """Inside this context, a signal interrupts the block and ends the run; for evaluations, which may be long.

        With several processes the evaluation is finished first, because they wait for each other and no process can
        leave alone.
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
        """The number of the signal that stops the run, the same on all processes; 0 when there is none."""
        return trainer.stop_signal if distributed.is_distributed() else trainer.stop_requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process or self._trainer is None:
            return  # a worker of a loader, which was forked with this handler; its parent ends it
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
        # Before the first step of this process there is no progress, and the random states are not yet restored.
        if trainer.iteration == trainer.start_iteration:
            logger.info("Stopped before the first step: there is nothing new to save.")
        else:
            if self._state.saved_iteration != trainer.iteration:
                self._state.save(checkpoint_name(trainer.iteration))
            logger.info("Stopped after iteration %d, which is saved; go on with --resume.", trainer.iteration)
        raise SystemExit(128 + self._agreed(trainer))


class LeaveSignalsToParent:
    """A `worker_init_fn` for loaders that makes workers ignore all signals but those of the parent process.

    A cluster signals every process of a job, but the parent still needs batches from the workers to finish its step.
    A worker also ends when its parent was killed while the worker was starting. torch's watchdog misses this case: it
    watches the process that is the parent when the watchdog starts.

    Args:
        inner: the previous `worker_init_fn` of the loader, or None.
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
            # SIGTERM cannot simply be ignored, because the parent ends its workers by it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_end_when_asked_by, args=(self.parent,), daemon=True).start()
        if self.inner is not None:
            self.inner(worker)


def _end_when_asked_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
