"""Stores many strings in one array."""

from collections.abc import Sequence

import numpy as np


class PackedStrings:
    """An immutable list of strings in one array of bytes.

    The workers of a loader are forked processes, in which reading a Python object writes its reference count and so
    copies its memory page. The strings in an array have no reference counts.
    """

    def __init__(self, strings: Sequence[str]):
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __getitem__(self, index: int) -> str:
        start, end = self._ends[index : index + 2]
        return self._bytes[start:end].tobytes().decode("utf-8", "surrogateescape")

    def select(self, indices: np.ndarray) -> "PackedStrings":
        """Return the strings at some positions."""
        return PackedStrings([self[index] for index in indices.tolist()])

    def __len__(self) -> int:
        return len(self._ends) - 1
