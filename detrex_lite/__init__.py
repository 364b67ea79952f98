"""detrex_lite: a modular toolkit of DETR-style detectors.

Importing this package is cheap: subpackages are imported when they are used.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# The wheel installs `projects`, `configs` and `tools` inside this package. A source checkout keeps them
# beside it; looking there too makes `detrex_lite.projects` the same import in both, installed or not.
_HERE = Path(__file__).resolve().parent
if not (_HERE / "projects").is_dir() and (_HERE.parent / "projects").is_dir():
    __path__.append(str(_HERE.parent))

_LAZY = {"Predictor": "detrex_lite.engine.predictor"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
