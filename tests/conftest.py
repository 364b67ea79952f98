"""Settings of all tests: Triton's interpreter without a GPU, and one core per worker of pytest-xdist."""

import os

import torch

from detrex_lite.config import trust

trust("tests")  # configs of tests name classes that are defined in the tests

if not torch.cuda.is_available():
    # Without a GPU, Triton's kernels run in its interpreter. Triton reads this variable when it is first imported, and
    # torch.compile imports it, so it must be set before any test does.
    os.environ["TRITON_INTERPRET"] = "1"

NUM_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if NUM_WORKERS > 1:
    # Workers that each use all cores for their operators slow each other down. Child processes read this, too.
    threads = max(len(os.sched_getaffinity(0)) // NUM_WORKERS, 1)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
