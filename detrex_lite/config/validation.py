"""Validation of a config before anything is built."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ..errors import did_you_mean, few
from ..foreign_names import known_here
from .error import ConfigError
from .loading import get_config
from .nodes import (
    PARTIAL,
    POSITIONAL,
    RECURSIVE,
    SPECIAL_KEYS,
    TARGET,
    first_line,
    is_call,
    is_mapping,
    is_sequence,
    join,
    path_of,
    to_plain,
)
from .targets import argument_faults, locate, value_faults

# The top-level keys of a config that training and evaluation read, and those that functions in the config read.
RUN_KEYS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
_READ_BY_FUNCTIONS = {"detrex_lite.engine.derived.": ("dataset", "pretrained", "published")}
_REFERENCE = re.compile(r"\$\{\s*(\.*)([\w-]*)")
_MISSING = re.compile(r"Missing mandatory value: (\S+)")

FREE_KEYS = ("train.wandb.params", "train.mlflow.params")  # passed to these packages, which validate them

RUN_TIME_VALUES = ("optimizer.params.model",)  # set by the training engine, as by detectron2's


def validate(cfg: Any, late: Collection[str] = RUN_TIME_VALUES) -> None:
    """Check a whole config, or one node with everything below it, without building anything.

    Every `_target_` must be trusted, importable and callable, accept its arguments and get all required ones; arguments
    that are annotated as numbers must be numbers; interpolations must resolve; no value may be missing (`???`).

    Args:
        cfg: a config node or a plain dict or list.
        late: dotted paths, from the root of the config, of values that are set at run time and may be missing before.

    Raises:
        ConfigError: one fault for each error, with its dotted path.
    """
    check(cfg, late=late)


def unread_keys(cfg: DictConfig) -> list[str]:
    """Return one fault for each top-level key of a run's config that nothing reads.

    The sections of a run (`RUN_KEYS`) are read, and keys that interpolations refer to, such as `dataset` in
    `${dataset.root}`. Names that begin with `_` are notes and are ignored.
    """
    choices = [name for name in RUN_KEYS if name not in cfg]
    faults = []
    for name in unread_names(cfg):
        hint = _foreign(name) or did_you_mean(name, choices)
        faults.append(
            f"{name}: nothing reads this key{hint}; remove it, or rename it to _{name} if Python code of the config "
            "reads it"
        )
    return faults


def unread_names(cfg: DictConfig) -> list[str]:
    """Return the keys of `unread_keys`."""
    read = set(RUN_KEYS)
    for path, text in _interpolations(to_plain(cfg, resolve=False), ()):
        for dots, name in _REFERENCE.findall(text):
            owner = path[: -len(dots)] if dots else ()
            read.update((*owner, name)[:1])
        for function, keys in _READ_BY_FUNCTIONS.items():
            read.update(keys if function in text else ())
    return [name for name in map(str, cfg) if name not in read and not name.startswith("_")]


def _interpolations(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Iterate over the texts with interpolations, with their paths of keys."""
    if isinstance(value, str) and "${" in value:
        yield path, value
    items = value.items() if is_mapping(value) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        yield from _interpolations(item, (*path, str(key)))


def unknown_train_keys(cfg: DictConfig) -> list[str]:
    """Return one fault for each key in `train`, at any depth, that the engine does not know."""
    return _unknown_keys(cfg.train, get_config("common/train.py").train)


def _unknown_keys(section: Any, defaults: Any, path: str = "train") -> list[str]:
    if path in FREE_KEYS or not isinstance(defaults, DictConfig):
        return []
    names = [str(name) for name in defaults]
    if not isinstance(section, DictConfig):
        return [f"{path}={section!r} is not a dict with the keys {', '.join(names)}"]
    faults = []
    for key in map(str, section):
        if key not in defaults:
            hint = (_foreign(key) if path == "train" else "") or did_you_mean(key, names)
            faults.append(f"{path}.{key} is not a key of the engine{hint}")
        elif isinstance(defaults[key], DictConfig):
            faults += _unknown_keys(section[key], defaults[key], f"{path}.{key}")
    return faults


def _foreign(name: str) -> str:
    """Return a hint at the key here for another program's name; empty when the name is unknown."""
    keys = known_here(name)
    if not keys:
        return ""
    return f"; did you mean {keys[0]!r}?" if not keys[0].startswith("--") else f"; that is the flag {keys[0]}"


def check(cfg: Any, *, late: Collection[str] = (), supplied: Collection[str] = ()) -> None:
    """As `validate`, with the names of arguments that the call of `cfg` gets in addition."""
    checker = _Checker(late)
    checker.walk(cfg, path_of(cfg), supplied)
    if checker.faults:
        raise ConfigError(checker.faults)


class _Checker:
    """Walks a config and collects faults."""

    def __init__(self, late: Collection[str]) -> None:
        self.faults: list[str] = []
        self._unresolved: dict[str, list[str]] = {}  # reasons why values cannot be read, with their paths
        self._late = tuple(late)
        self._visited: dict[int, Any] = {}  # keeps the nodes alive, so that an id identifies a node
        self._open: set[int] = set()

    def walk(self, node: Any, path: str, supplied: Collection[str] = ()) -> None:
        if not is_mapping(node) and not is_sequence(node):
            return
        if id(node) in self._open:
            self.faults.append(f"{path or 'the config'}: contains an interpolation of itself")
        if id(node) in self._visited:
            return
        self._visited[id(node)] = node
        self._open.add(id(node))
        children = self._children(node, path, skip=supplied)
        if is_call(node):
            self._check_call(children, path, [*map(str, node.keys()), *supplied])
        if children.get(RECURSIVE, True):
            for key, value in children.items():
                referred = isinstance(node, Container) and OmegaConf.is_interpolation(node, key)
                standing = path_of(value) if referred else ""  # faults are reported where they can be fixed
                self.walk(value, standing or join(path, key))
        self._open.discard(id(node))

    def _children(self, node: Any, path: str, skip: Collection[str]) -> dict[Any, Any]:
        """Return the values that can be read; the others are reported as faults."""
        children = {}
        for key in node.keys() if is_mapping(node) else range(len(node)):
            child_path = join(path, key)
            if key in skip or child_path in self._late:
                continue
            try:
                children[key] = node[key]
            except MissingMandatoryValue:
                self._add_missing(child_path)
            except OmegaConfBaseException as error:
                self._add_unresolved(child_path, error)
        return children

    def _add_missing(self, path: str) -> None:
        """Report one fault for a value that many interpolations may refer to."""
        fault = f"{path}: has no value yet (it is ???)"
        if fault not in self.faults:
            self.faults.append(fault)

    def _add_unresolved(self, path: str, error: OmegaConfBaseException) -> None:
        """Report one fault for all interpolations that cannot be resolved for the same reason."""
        if missing := _MISSING.search(str(error)):
            self._add_missing(re.sub(r"\[(\w+)\]", r".\1", missing[1]))  # omegaconf writes a.b[0].c
            return
        reason = first_line(error)
        paths = self._unresolved.setdefault(reason, [])
        if paths:
            self.faults.remove(f"{few(paths, limit=3)}: {reason}")
        paths.append(path)
        self.faults.append(f"{few(paths, limit=3)}: {reason}")

    def _check_call(self, children: Mapping[Any, Any], path: str, names: list[str]) -> None:
        target = children.get(TARGET)
        if is_mapping(target):  # a call that returns the callable; checked like any other child
            return
        try:
            target = locate(target) if isinstance(target, str) else target
        except ConfigError as error:
            self.faults.append(f"{join(path, TARGET)}: {error}")
            return
        if not callable(target):
            self.faults.append(f"{join(path, TARGET)}: {target!r} cannot be called")
            return
        late = [name for owner, _, name in (key.rpartition(".") for key in self._late) if owner == path]
        faults = argument_faults(
            target,
            [name for name in dict.fromkeys((*names, *late)) if name not in SPECIAL_KEYS],
            positional=len(children.get(POSITIONAL) or ()),
            complete=not children.get(PARTIAL, False),
        )
        faults |= value_faults(target, children)
        self.faults.extend(f"{join(path, name)}: {fault}" for name, fault in faults.items())
