"""The targets of configs: conversion between dotted paths and objects, and the arguments of callables."""

import inspect
import pkgutil
from collections.abc import Collection, Mapping
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter
from types import ModuleType, UnionType
from typing import Any, Union, get_args, get_origin

from ..errors import did_you_mean
from .error import ConfigError
from .nodes import is_call, is_mapping, is_sequence
from .trusted import may_import, refusal, require_trusted


def locate(path: str) -> Any:
    """Return the Python object with a dotted path in a config, if it belongs to a trusted package.

    Saved configs also contain calls of this function for arguments that are classes or functions
    (`activation=nn.GELU`).

    Args:
        path: module and name, such as `torch.nn.Conv2d` or `torch.nn.Module.apply`.

    Raises:
        ConfigError: the path is malformed, a module cannot be imported, a name does not exist, or the object is not
            trusted (see `trust`). Only packages with trusted parts are imported.
    """
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{path!r} is not a dotted path such as 'torch.nn.Conv2d'")
    if any(part.startswith("__") for part in parts):
        raise ConfigError(f"{path!r}: names in configs must not begin with two underscores")
    if not may_import(path):
        if find_spec(f"detrex_lite.{parts[0]}"):
            raise ConfigError(f"{path!r}: did you mean 'detrex_lite.{path}'?")
        if find_spec(parts[0]):
            raise refusal(path)
    target = find(path)
    require_trusted(target, path)
    return target


def find(path: str) -> Any:
    """As `locate`, for any package: for names of objects that already exist in this process.

    Raises:
        ConfigError: a module cannot be imported, or a name does not exist.
    """
    try:
        return _follow(path)
    except _NoAttribute as missing:
        hint = did_you_mean(missing.name, _public_names(missing.owner))
        raise ConfigError(f"{missing.path} has no attribute {missing.name!r}{hint}") from None


class _NoAttribute(Exception):
    """The object `owner` at `path` has no attribute `name`."""

    def __init__(self, path: str, owner: Any, name: str):
        super().__init__(path, name)
        self.path, self.owner, self.name = path, owner, name


def _follow(path: str) -> Any:
    """As `find`, but raises `_NoAttribute`, from which the caller makes a suggestion."""
    parts = path.split(".")
    # The last part is not imported as a module: if a package exports a function with the name of the module that
    # defines it, the function is meant.
    for end in range(len(parts) - 1, 0, -1):
        target: Any = _import_if_exists(".".join(parts[:end]), path)
        if target is not None:
            break
    else:
        modules = [module.name for module in pkgutil.iter_modules()]
        places = " in the current folder, on PYTHONPATH or among the installed packages"
        hint = did_you_mean(parts[0], modules, otherwise=places)
        raise ConfigError(f"{path!r}: there is no module {parts[0]!r}{hint}")
    for index in range(end, len(parts)):
        try:
            target = getattr(target, parts[index])
        except AttributeError:
            raise _NoAttribute(".".join(parts[:index]), target, parts[index]) from None
    return target


def _import_if_exists(name: str, path: str) -> ModuleType | None:
    try:
        return import_module(name)
    except Exception as error:
        # Only the requested module may be missing; a missing dependency of the module is an error.
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            return None
        raise ConfigError(f"{path!r}: importing {name} failed: {type(error).__name__}: {error}") from error


def _public_names(owner: Any) -> list[str]:
    submodules = pkgutil.iter_modules(getattr(owner, "__path__", ()))
    names = [*dir(owner), *(module.name for module in submodules)]
    return [name for name in names if not name.startswith("_")]


def dotted_name(target: Any) -> str | None:
    """Return the shortest dotted path by which `locate` finds a function or class; None for lambdas and the like."""
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        # The qualified names of C functions may contain a class that their module does not export: torch.relu.
        for local_name in dict.fromkeys((name, name.rpartition(".")[2])):
            path = ".".join([*parts[:end], local_name])
            if is_at(path, target):
                return path
    return None


def is_at(path: str, target: Any) -> bool:
    """Whether `find(path)` returns exactly this object."""
    if not all(part.isidentifier() for part in path.split(".")):
        return False
    try:
        located = _follow(path)
    except (ConfigError, _NoAttribute):
        return False
    same_method = inspect.ismethod(target) and located == target  # methods are created at each access
    return located is target or same_method


def describe(target: Any) -> str:
    """Return the name of a target in messages."""
    return target if isinstance(target, str) else dotted_name(target) or repr(target)


def accepted_names(target: Any) -> list[str]:
    """Return the keyword arguments in a callable's signature; none for one that cannot be inspected."""
    return [p.name for p in _parameters(target) or [] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def takes_only(target: Any) -> list[str]:
    """As `accepted_names`, but none for a callable that takes arbitrary arguments."""
    is_open = any(p.kind is p.VAR_KEYWORD for p in _parameters(target) or [])
    return [] if is_open else accepted_names(target)


def default_of(target: Any, name: str) -> Any:
    """Return the default of an argument; None without a default."""
    default = next((p.default for p in _parameters(target) or [] if p.name == name), Parameter.empty)
    return None if default is Parameter.empty else default


# Annotations of arguments that take only numbers; a config contains no tensors.
_NUMBERS = frozenset(("int", "float", "bool", "None", "NoneType", "Tensor"))


def value_faults(target: Any, values: Mapping[str, Any]) -> dict[str, str]:
    """Find values that are not numbers, for arguments whose annotations allow only numbers; faults by name."""
    faults = {}
    for p in _parameters(target) or []:
        kinds = _kinds(p.annotation)
        if p.name not in values or not kinds or not kinds <= _NUMBERS or kinds <= {"None", "NoneType", "Tensor"}:
            continue
        value = values[p.name]
        if value is None:
            wrong = not kinds & {"None", "NoneType"} and p.default is not None
        elif isinstance(value, float):
            wrong = not kinds & {"float", "Tensor"} and not value.is_integer()
        else:
            wrong = isinstance(value, str) or (not is_call(value) and (is_mapping(value) or is_sequence(value)))
        if wrong:
            expected = "a number" if "float" in kinds else "a whole number" if "int" in kinds else "true or false"
            faults[p.name] = (
                f"{'null' if value is None else repr(value)} is not {expected}, which {describe(target)} takes"
            )
    return faults


def _kinds(annotation: Any) -> set[str]:
    """Return the names of the types in an annotation: {"int", "None"}; empty without an annotation."""
    if annotation is Parameter.empty:
        return set()
    if isinstance(annotation, str):
        return {name.strip().rpartition(".")[2] for name in annotation.split("|")}
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return {getattr(member, "__name__", str(member)) for member in members}


def argument_faults(
    target: Any, names: Collection[str], *, positional: int = 0, complete: bool = True
) -> dict[str, str]:
    """Find the faults in the arguments of a call.

    Args:
        target: any callable; one that cannot be inspected is assumed to accept everything.
        names: the keyword arguments.
        positional: number of positional arguments before them.
        complete: whether these are all the arguments, so that required arguments must be included.

    Returns:
        Faults by argument name (`_args_` for positional arguments).
    """
    parameters = _parameters(target)
    if parameters is None:
        return {}
    kinds = {p.kind for p in parameters}
    in_order = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    filled = {p.name for p in in_order[:positional]}
    faults = {}
    if positional > len(in_order) and Parameter.VAR_POSITIONAL not in kinds:
        faults["_args_"] = f"{describe(target)} takes at most {len(in_order)} positional arguments, not {positional}"
    accepted = accepted_names(target)
    for name in names:
        if name in filled:
            faults[name] = f"{describe(target)} gets this argument twice, first from _args_"
        elif name not in accepted and Parameter.VAR_KEYWORD not in kinds:
            faults[name] = f"{describe(target)} has no argument {name!r}{did_you_mean(name, accepted)}"
    if complete:
        for p in parameters:
            optional = p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            if not optional and p.name not in filled and p.name not in names:
                faults[p.name] = f"{describe(target)} needs this argument"
    return faults


def _parameters(target: Any) -> list[Parameter] | None:
    try:
        return list(inspect.signature(target).parameters.values())
    except (
        TypeError,
        ValueError,
        NameError,
    ):  # built-in functions, or annotations with names that only exist for type checkers
        return None
