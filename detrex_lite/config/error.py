"""The error of everything that is wrong with a config."""

from collections.abc import Sequence


class ConfigError(ValueError):
    """A config that cannot be loaded, overridden, validated or built.

    Attributes:
        faults: one sentence for each thing that is wrong, all of them found in one pass.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        if len(self.faults) == 1:
            message = self.faults[0]
        else:
            message = "\n  - ".join([f"{len(self.faults)} faults in the config:", *self.faults])
        super().__init__(message)

    def __reduce__(self) -> tuple:
        return type(self), (self.faults,)
