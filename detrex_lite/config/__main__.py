"""Print a config as a run would see it: `python -m detrex_lite.config FILE [overrides]`."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import did_you_mean
from . import ConfigError, LazyConfig, trust, validate
from .nodes import dotted_paths, first_line
from .trusted import add_trust_argument
from .validation import unknown_train_keys, unread_keys


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 when something is wrong with the config."""
    parser = argparse.ArgumentParser(
        prog="python -m detrex_lite.config",
        description="Print a config with overrides applied and interpolations resolved, and check it.",
    )
    parser.add_argument("file", help="a Python or YAML config; also one that comes with the package")
    parser.add_argument("overrides", nargs="*", help="a.b=1 changes a key, +a.b=1 adds one, ~a.b deletes one")
    parser.add_argument("--format", choices=["yaml", "py"], default="yaml")
    parser.add_argument("--key", help="print this part alone, such as model or train.amp")
    add_trust_argument(parser)
    options = parser.parse_intermixed_args(arguments)
    try:
        trust(*options.trust)
        cfg = LazyConfig.apply_overrides(LazyConfig.load(options.file), options.overrides)
        part = _select(cfg, options.key) if options.key else cfg
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        validate(part)
        if part is cfg and "model" in cfg and "train" in cfg:  # the config of a run, not of a part
            unknown = [*unread_keys(cfg), *unknown_train_keys(cfg)]
            if unknown:
                raise ConfigError(unknown)
    except ConfigError as error:  # still print it, as it is written, to show where the faults are
        print(_render(part, options.format, resolve=False))
        print(error, file=sys.stderr)
        return 2
    print(_render(part, options.format, resolve=True))
    return 0


def _select(cfg: Container, key: str) -> Any:
    absent = object()
    try:
        part = OmegaConf.select(cfg, key, default=absent)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {first_line(error)}") from error
    if part is absent:
        raise ConfigError(f"there is no {key!r} in the config{did_you_mean(key, dotted_paths(cfg))}")
    return part


def _render(part: Any, form: str, *, resolve: bool) -> str:
    if not isinstance(part, Container):
        return str(part)
    render = LazyConfig.to_py if form == "py" else LazyConfig.to_yaml
    return render(part, resolve=resolve).rstrip()


if __name__ == "__main__":
    sys.exit(main())
