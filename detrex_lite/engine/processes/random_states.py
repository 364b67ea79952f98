"""Seeds, saves and restores all random number generators of a process."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_anew(seed: int, iteration: int, rank: int) -> None:
    """Seed the generators of a process in the middle of a run, differently from other ranks and iterations."""
    seed_everything(int(np.random.SeedSequence((seed, iteration, rank)).generate_state(1)[0]))


def random_states() -> dict[str, Any]:
    """The states of all generators of this process, as tensors and plain values."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    keys = np.asarray(keys, dtype=np.int64)
    return {
        "python": random.getstate(),
        "numpy": [
            kind,
            torch.from_numpy(keys),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        # Without this check, a run on the CPU would initialise CUDA.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restore the states that `random_states` returned."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextlib.contextmanager
def preserved_random_states() -> Iterator[None]:
    """Restore the states of all generators when the block ends, so that draws inside have no effect outside."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)
