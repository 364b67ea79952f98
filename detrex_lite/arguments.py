"""Constructors that hand arguments on to the class that they extend."""

import inspect
from inspect import Parameter
from typing import Any, TypeVar

Instance = TypeVar("Instance")


def inherits_arguments(cls: type[Instance]) -> type[Instance]:
    """Class decorator: `**` in the constructor stands for the keyword arguments of the class that `cls` extends.

    They are listed and documented once, by the class that uses them, and yet nothing is swallowed: `inspect.signature`,
    `help` and the validation of configs see all of them.

        @inherits_arguments
        class Special(General):
            def __init__(self, *, own: int, **general):
                super().__init__(**general)

    Where both have an argument of one name, that of `cls` counts.

    Raises:
        TypeError: when `cls` has no constructor of its own, or one without `**`.
    """
    constructor: Any = vars(cls).get("__init__")
    parameters = [] if constructor is None else list(inspect.signature(constructor).parameters.values())
    if not parameters or parameters[-1].kind is not Parameter.VAR_KEYWORD:
        raise TypeError(f"{cls.__qualname__} has no constructor of its own that takes further arguments by **")
    own = {parameter.name: parameter for parameter in parameters[:-1]}
    base = next(one for one in cls.__mro__[1:] if "__init__" in vars(one))
    inherited = [
        parameter if parameter.kind is Parameter.VAR_KEYWORD else parameter.replace(kind=Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(vars(base)["__init__"]).parameters.values()
        if parameter.name not in own and parameter.kind is not Parameter.VAR_POSITIONAL
    ]
    constructor.__signature__ = inspect.Signature([*own.values(), *inherited])
    return cls
