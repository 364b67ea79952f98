"""Reading pickles of arrays, as published in detectron2's model zoo, without running the code in them.

A pickle is a program that may call anything it can name. This reader resolves a fixed list of names, all of them
harmless constructors, and refuses every other name.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np


class ForbiddenGlobal(pickle.UnpicklingError):
    """The pickle names something other than arrays and plain containers.

    Attributes:
        name: the dotted name that it requested.
    """

    def __init__(self, name: str):
        super().__init__(f"the pickle asks for {name}")
        self.name = name


def _encode(text: str, encoding: str) -> bytes:
    """Encode text as bytes; old pickle protocols call this, always with the codec latin1."""
    if encoding not in ("latin1", "latin-1"):
        raise ForbiddenGlobal(f"_codecs.encode with the codec {encoding!r}")
    return text.encode("latin1")


def _constructors() -> dict[tuple[str, str], Callable[..., Any]]:
    # Taking these functions from an array works for all versions of NumPy, which keep them in different modules.
    array = np.zeros(1)
    rebuild, scalar, from_buffer = array.__reduce__()[0], array[0].__reduce__()[0], array.__reduce_ex__(5)[0]
    allowed: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    for core in ("numpy.core", "numpy._core"):  # the names in NumPy 1 and NumPy 2
        allowed[f"{core}.multiarray", "_reconstruct"] = rebuild
        allowed[f"{core}.multiarray", "scalar"] = scalar
        allowed[f"{core}.numeric", "_frombuffer"] = from_buffer
    return allowed


class _ArrayUnpickler(pickle.Unpickler):
    allowed = _constructors()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise ForbiddenGlobal(f"{module}.{name}")
        return self.allowed[module, name]


def load_array_pickle(file: IO[bytes]) -> Any:
    """Read a pickle of NumPy arrays and scalars, strings, numbers, lists, tuples and dicts.

    Raises:
        ForbiddenGlobal: when the pickle names anything else.
        pickle.UnpicklingError, EOFError: when it is not a pickle, or is truncated.
    """
    # The oldest files of the model zoo were written by Python 2; latin1 preserves the bytes of their arrays.
    return _ArrayUnpickler(file, encoding="latin1").load()
