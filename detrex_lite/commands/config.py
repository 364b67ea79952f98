"""Printing and checking a config."""

import argparse
import sys
from typing import Any

from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..checkpoint import CheckpointError
from ..config import ConfigError, LazyConfig, validate
from ..config.nodes import dotted_paths, first_line
from ..config.validation import unknown_train_keys, unread_keys
from ..data import DatasetError
from ..errors import did_you_mean
from .configs import plan_of
from .refusal import refuse


def run(options: argparse.Namespace) -> int:
    """Print a config; see `detrex_lite.cli.config`."""
    options.resume = False
    try:
        plan = plan_of(options)
        cfg = plan.cfg
        part = _select(cfg, options.key) if options.key else cfg
    except (ConfigError, CheckpointError, DatasetError) as error:
        return refuse("config", error)
    if plan.settings:
        print(plan.describe(), file=sys.stderr)
    try:
        validate(part)
        if part is cfg and "model" in cfg and "train" in cfg:  # only the whole config of a run
            unknown = [*unread_keys(cfg), *unknown_train_keys(cfg)]
            if unknown:
                raise ConfigError(unknown)
    except ConfigError as error:  # print the config without resolving it, to show where the faults are
        print(_render(part, options.format, resolve=False))
        return refuse("config", error)
    print(_render(part, options.format, resolve=not options.unresolved))
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
