"""Reading pickles of arrays, as detectron2's model zoo publishes them, without running what they contain.

A pickle is a program: it may call anything that it can name. This reader resolves a fixed list of names, all
of them harmless constructors, and refuses every other.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np


class ForbiddenGlobal(pickle.UnpicklingError):
    """The pickle names something else than arrays and plain containers.

    Attributes:
        name: the dotted name that it asked for.
    """

    def __init__(self, name: str):
        super().__init__(f"the pickle asks for {name}")
        self.name = name


def _encode(text: str, encoding: str) -> bytes:
    """What old pickle protocols call to make bytes; they use this codec and no other."""
    if encoding not in ("latin1", "latin-1"):
        raise ForbiddenGlobal(f"_codecs.encode with the codec {encoding!r}")
    return text.encode("latin1")


def _constructors() -> dict[tuple[str, str], Callable[..., Any]]:
    # Taken from an array itself, these functions are found wherever the installed NumPy keeps them.
    one = np.zeros(1)
    rebuild, scalar, from_buffer = one.__reduce__()[0], one[0].__reduce__()[0], one.__reduce_ex__(5)[0]
    allowed: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    for core in ("numpy.core", "numpy._core"):  # as NumPy 1 and NumPy 2 call it
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
    """The content of a pickle of NumPy arrays and scalars, strings, numbers, lists, tuples and dicts.

    Raises:
        ForbiddenGlobal: when the pickle names anything else.
        pickle.UnpicklingError, EOFError: when it is no pickle, or only the beginning of one.
    """
    # Python 2 wrote the model zoo's oldest files; latin1 keeps the bytes of their arrays as they are.
    return _ArrayUnpickler(file, encoding="latin1").load()
