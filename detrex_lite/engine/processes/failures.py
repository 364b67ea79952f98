"""Writes the error that ends a run to its log, and explains lost processes and full memory."""

import contextlib
import logging
import re
import traceback
from collections.abc import Iterator

import torch

from ... import distributed
from ...devices import is_out_of_memory
from ..io.logs import FILE_ONLY
from ..memory_full import memory_full

logger = logging.getLogger(__name__)

LOST_WORKER = re.compile(r"DataLoader worker \(pid.*?\) (is killed by|exited unexpectedly)")
LOST_CONNECTION = re.compile(
    r"connection|remote process exited|network error|broken pipe|failed to (connect|recv|send)|timed out", re.IGNORECASE
)


class LostProcessError(RuntimeError):
    """Another process, which loads images or trains, has ended. This process is not at fault."""


@contextlib.contextmanager
def failures_in_log() -> Iterator[None]:
    """Inside this context, an error that leaves the block is written to the run's log.

    Raises:
        LostProcessError: in place of torch's own errors about lost processes.
        MemoryFullError: in place of torch's own errors about full memory.
    """
    try:
        yield
    except Exception as error:
        logger.error("%s", traceback.format_exc(), extra=FILE_ONLY)
        if is_out_of_memory(error):
            device = "cuda" if isinstance(error, torch.cuda.OutOfMemoryError) else "cpu"
            raise memory_full(error, torch.device(device)) from error
        lost = _lost_process(error)
        if lost is None:
            raise
        logger.error("%s", lost, extra=FILE_ONLY)
        raise lost from error


def _lost_process(error: Exception) -> LostProcessError | None:
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and LOST_WORKER.search(text):
        return LostProcessError(
            f"a process that loads images has ended ({text.rstrip('. ')}). The system kills processes when memory runs "
            "out: fewer dataloader.train.num_workers need less. --resume goes on from the last checkpoint"
        )
    if distributed.is_distributed() and isinstance(error, RuntimeError) and LOST_CONNECTION.search(text):
        return LostProcessError(
            f"process {distributed.rank()} lost its connection to another process, which has ended; see the output of "
            f"that process for the reason. --resume goes on from the last checkpoint ({text:.200})"
        )
    return None
