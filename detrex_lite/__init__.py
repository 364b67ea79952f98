"""detrex_lite: a modular toolkit of DETR-style detectors.

Importing this package is cheap: subpackages are imported when they are used.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `__getattr__` imports them at run time
    from .inference import Predictor as Predictor
    from .inference.export import export as export
    from .scalars import log_scalar as log_scalar
    from .zoo.predictor import load as load

__version__ = "0.1.0"

# The wheel installs these folders inside the package. In a source checkout they are next to it.
_SHIPPED = ("projects", "configs", "tools")
_HERE = Path(__file__).resolve().parent
SHIPPED_IN = _HERE if (_HERE / "projects").is_dir() else _HERE.parent


class _ShippedFinder:
    """Finds `detrex_lite.projects`, `.configs` and `.tools` in a checkout, where they are next to the package."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, part = name.partition(".")
        return PathFinder.find_spec(name, [str(SHIPPED_IN)]) if package == __name__ and part in _SHIPPED else None


if SHIPPED_IN != _HERE:
    # It comes before all other finders, because the projects of another, installed checkout must not be used.
    sys.meta_path.insert(0, _ShippedFinder())


class _ConfigFinder:
    """Finds the configs of the package by `detrex_lite.config.modules`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith(__name__) or ".configs." not in name:
            return None
        return import_module("detrex_lite.config.modules").find_config(name)


sys.meta_path.insert(0, _ConfigFinder())

_LAZY = {
    "Predictor": "detrex_lite.inference",
    "export": "detrex_lite.inference.export",
    "load": "detrex_lite.zoo.predictor",
    "log_scalar": "detrex_lite.scalars",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_LAZY, *_SHIPPED]
