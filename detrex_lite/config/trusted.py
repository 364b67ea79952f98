"""The parts of trusted packages that a config may call by name.

A name in a config (`_target_: torch.nn.Linear`) is looked up and called, so a config with arbitrary names could do
anything. Classes and functions that a Python config contains directly need no trust: that file is code and is executed.
"""

import types
from collections.abc import Collection
from typing import Any

from .error import ConfigError

# Modules, including their submodules, with parts of detectors and of their training. Their classes and functions
# compute, or read the images, annotations and weights in their arguments. Functions that read code from files or the
# network (torch.hub, torch.load, torchvision.models, timm.models), start programs or load other configs are excluded.
TRUSTED_MODULES = (
    "detrex_lite.data",
    "detrex_lite.engine.derived",
    "detrex_lite.engine.epochs",
    "detrex_lite.engine.loop",
    "detrex_lite.evaluation",
    "detrex_lite.layers",
    "detrex_lite.modeling",
    "detrex_lite.ops",
    "detrex_lite.projects",
    "detrex_lite.structures",
    "detectron2.data.transforms",
    "detectron2.evaluation",
    "detectron2.layers",
    "detectron2.modeling",
    "detectron2.solver",
    "detectron2.structures",
    "fvcore.common.param_scheduler",
    "fvcore.nn",
    "timm.layers",
    "timm.optim",
    "torch.functional",
    "torch.nn",
    "torch.optim",
    "torch.utils.data.dataloader",
    "torch.utils.data.dataset",
    "torch.utils.data.distributed",
    "torch.utils.data.sampler",
    "torchvision.ops",
    "torchvision.transforms",
    "torchvision.tv_tensors",
)
TRUSTED_NAMES = (
    "builtins.bool",
    "builtins.complex",
    "builtins.dict",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.len",
    "builtins.list",
    "builtins.range",
    "builtins.set",
    "builtins.slice",
    "builtins.str",
    "builtins.tuple",
    "collections.OrderedDict",
    "detrex_lite.config.locate",  # which checks its result again
    "functools.partial",
    "pathlib.Path",
    "torch.Generator",
    "torch.device",
)
# Modules of torch whose compiled functions take tensors; torch.from_file is excluded because it writes files.
_COMPILED = ("torch", "torch._C._nn")
_COMPILED_THAT_TOUCH_FILES = ("from_file",)
_CONSTANTS_OF_TORCH = ("torch.dtype", "torch.layout", "torch.memory_format")
_PLAIN = (str, int, float, complex, types.NoneType)

_added: set[str] = set()


def trust(*names: str) -> None:
    """Let configs that this process reads call classes and functions of further packages by name.

    Use it only for packages of which a config may call every function, with any arguments.

    Args:
        names: packages (`"my_detectors"`), modules (`"my_detectors.losses"`) or single functions and classes.

    Raises:
        ConfigError: something is not such a name.
    """
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"{name!r} is not the name of a package to trust, such as 'my_detectors'")
    _added.update(names)


def untrusted(names: Collection[str]) -> list[str]:
    """Return the names that were not passed to `trust`."""
    return [name for name in names if name not in _added]


def may_import(path: str) -> bool:
    """Whether a dotted path begins with a package that has trusted parts; importing it runs its code."""
    package = path.partition(".")[0]
    return any(name.partition(".")[0] == package for name in (*TRUSTED_MODULES, *TRUSTED_NAMES, *_added))


def require_trusted(target: Any, path: str) -> None:
    """Raise an error for an object that is defined outside of the trusted packages, regardless of its path.

    Raises:
        ConfigError: the object is not trusted; the message says how to trust it.
    """
    names = (*TRUSTED_NAMES, *_added)
    if path in names or isinstance(target, _PLAIN):
        return
    kind = target if callable(target) or isinstance(target, types.ModuleType) else type(target)
    if kind is not target and f"{kind.__module__}.{kind.__qualname__}" in _CONSTANTS_OF_TORCH:
        return
    if any(f"{home(kind)}.".startswith(f"{name}.") for name in (*TRUSTED_MODULES, *_added)):
        return
    if isinstance(target, type) and f"{target.__module__}.{target.__qualname__}" in names:
        return
    compiled = isinstance(kind, types.BuiltinFunctionType) and kind.__module__ in _COMPILED
    if not compiled or kind.__name__ in _COMPILED_THAT_TOUCH_FILES:
        raise refusal(path)


def home(target: Any) -> str:
    """Return the name of the module that defines an object; empty when it is unknown."""
    owner = getattr(target, "__objclass__", target)
    module = getattr(owner, "__module__", None)
    return module if isinstance(module, str) else ""


def refusal(path: str) -> ConfigError:
    """Create the error for a name that is not trusted."""
    package = path.partition(".")[0]
    parts = [name for name in (*TRUSTED_MODULES, *TRUSTED_NAMES) if name.partition(".")[0] == package]
    reason = f"of {package} configs may name what is in {', '.join(parts)}" if parts else f"{package} is not trusted"
    missing = path.rpartition(".")[0] if parts else package
    return ConfigError(
        f"{path!r} is not called: {reason}. A name in a config is code that runs. If you trust where the config comes "
        f"from and all that {missing} can do: --trust {missing}, in a Python config train.trusted=['{missing}'], in "
        f"Python detrex_lite.config.trust('{missing}')"
    )
