"""Finding everything that is wrong with a config before anything of it is built."""

from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import Container, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from .error import ConfigError
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
)
from .targets import argument_faults, locate

RUN_TIME_VALUES = ("optimizer.params.model",)  # what the training engine sets, as detectron2's does


def validate(cfg: Any, late: Collection[str] = RUN_TIME_VALUES) -> None:
    """Check a whole config, or one node with all below it, without building anything.

    Every `_target_` must be importable and callable, accept its arguments and need no others; interpolations
    must resolve; no value may be missing (`???`).

    Args:
        cfg: a config node or a plain dict or list.
        late: dotted paths, from the root of the config, of values that are given at run time, and so may be
            missing now.

    Raises:
        ConfigError: one fault for each thing that is wrong, with its dotted path.
    """
    check(cfg, late=late)


def check(cfg: Any, *, late: Collection[str] = (), given: Collection[str] = ()) -> None:
    """`validate`, with the names of arguments that the call which `cfg` describes gets besides its own."""
    checker = _Checker(late)
    checker.walk(cfg, path_of(cfg), given)
    if checker.faults:
        raise ConfigError(checker.faults)


class _Checker:
    """Walks a config and collects faults."""

    def __init__(self, late: Collection[str]) -> None:
        self.faults: list[str] = []
        self._late = tuple(late)
        self._visited: dict[int, Any] = {}  # keeps the nodes alive, so that an id means one node
        self._open: set[int] = set()

    def walk(self, node: Any, path: str, given: Collection[str] = ()) -> None:
        if not is_mapping(node) and not is_sequence(node):
            return
        if id(node) in self._open:
            self.faults.append(f"{path or 'the config'}: contains an interpolation of itself")
        if id(node) in self._visited:
            return
        self._visited[id(node)] = node
        self._open.add(id(node))
        children = self._children(node, path, skip=given)
        if is_call(node):
            self._check_call(children, path, [*map(str, node.keys()), *given])
        if children.get(RECURSIVE, True):
            for key, value in children.items():
                referred = isinstance(node, Container) and OmegaConf.is_interpolation(node, key)
                standing = path_of(value) if referred else ""  # faults are reported where they can be corrected
                self.walk(value, standing or join(path, key))
        self._open.discard(id(node))

    def _children(self, node: Any, path: str, skip: Collection[str]) -> dict[Any, Any]:
        """The values that can be read; the others are faults."""
        children = {}
        for key in node.keys() if is_mapping(node) else range(len(node)):
            child_path = join(path, key)
            if key in skip or child_path in self._late:
                continue
            try:
                children[key] = node[key]
            except MissingMandatoryValue:
                self.faults.append(f"{child_path}: has no value yet (it is ???)")
            except OmegaConfBaseException as error:
                self.faults.append(f"{child_path}: {first_line(error)}")
        return children

    def _check_call(self, children: Mapping[Any, Any], path: str, names: list[str]) -> None:
        target = children.get(TARGET)
        if is_mapping(target):  # a call that gives the callable; checked like any other child
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
        self.faults.extend(f"{join(path, name)}: {fault}" for name, fault in faults.items())
