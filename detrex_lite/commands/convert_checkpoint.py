"""Writing a trained detector's weights under other names."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import KEY_MAPS, CheckpointError, convert_state_dict, read_checkpoint, save_atomic
from ..cli.convert_checkpoint import SUFFIXES
from ..config import ConfigError, LazyConfig, explain, trust
from ..inference.predictor import build_trained

OWN = KEY_MAPS[0].name


def run(args: argparse.Namespace) -> int:
    """Convert; see `detrex_lite.cli.convert_checkpoint`."""
    try:
        convert(args)
    except (CheckpointError, ConfigError, OSError) as error:
        print(f"detrex-lite convert-checkpoint: {explain(error)}", file=sys.stderr)
        return 2
    return 0


def convert(args: argparse.Namespace) -> None:
    """Read, check, rename and write; nothing is written when any of it fails."""
    output = Path(os.path.expanduser(args.output))
    if output.suffix not in SUFFIXES:
        raise CheckpointError(f"{output} has the suffix {output.suffix!r}; take one of {', '.join(SUFFIXES)}")
    if output.exists() and not args.overwrite:
        raise CheckpointError(f"{output} is there already; --overwrite replaces it")
    trust(*args.trust)
    config = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    if "model" not in config:
        raise ConfigError([f"{args.config_file} has no 'model'"])
    stored = read_checkpoint(args.weights, trusted=args.trusted)
    model, report = build_trained(config, stored, args.weights, prefer_ema=not args.no_ema)
    print(report.summary())
    # What the checkpoint lacks is as initialised in the model: it is no result of training.
    state = {name: value for name, value in model.state_dict().items() if name not in report.missing}
    state = convert_state_dict(state, args.to)
    save_atomic(state if output.suffix == ".safetensors" else as_file(state, stored, args.to), output)
    print(f"{len(state)} tensors with the names of {args.to}: {output}")


def as_file(state: Mapping[str, Tensor], stored: Mapping[str, Any], target: str) -> Mapping[str, Any]:
    """The content of a file of torch.save, as the programs that are to read it expect it.

    Args:
        state: the weights under the names of `target`.
        stored: the content of the file that they come from.
        target: the name of a format.
    """
    entry = next(key_map.entry for key_map in KEY_MAPS if key_map.name == target)
    if not entry:
        return state
    # The predictor reads the classes from a checkpoint of this project.
    kept = ("class_names", "category_ids") if target == OWN else ()
    return {entry: state, **{name: stored[name] for name in kept if name in stored}}
