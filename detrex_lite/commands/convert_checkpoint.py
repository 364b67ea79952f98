"""Writing a trained detector's weights with the tensor names of another project."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import KEY_MAPS, CheckpointError, convert_state_dict, read_checkpoint, save_atomic
from ..cli.convert_checkpoint import SUFFIXES
from ..config import ConfigError, LazyConfig, trust
from ..inference.predictor import build_trained
from .refusal import refuse

OWN = KEY_MAPS[0].name


def run(args: argparse.Namespace) -> int:
    """Convert a checkpoint; see `detrex_lite.cli.convert_checkpoint`."""
    try:
        convert(args)
    except (CheckpointError, ConfigError, OSError) as error:
        return refuse("convert-checkpoint", error)
    return 0


def convert(args: argparse.Namespace) -> None:
    """Read, check, rename and write the weights; an error in any step leaves no file."""
    output = output_file(args)
    trust(*args.trust)
    config = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    if "model" not in config:
        raise ConfigError([f"{args.config_file} has no 'model'"])
    stored = read_checkpoint(args.weights, trusted=args.trusted)
    model, report = build_trained(config, stored, args.weights, prefer_ema=not args.no_ema)
    print(report.summary())
    # Tensors that the checkpoint lacks have their initial values in the model: they were never trained.
    state = {name: value for name, value in model.state_dict().items() if name not in report.missing}
    state = convert_state_dict(state, args.to)
    save_atomic(state if output.suffix == ".safetensors" else as_file(state, stored, args.to), output)
    print(f"{len(state)} tensors with the names of {args.to}: {output}")


def output_file(args: argparse.Namespace) -> Path:
    """The checkpoint file that `--output` names.

    Raises:
        CheckpointError: when its suffix is not that of a checkpoint, or when it exists and `--overwrite` is missing.
    """
    output = Path(os.path.expanduser(args.output))
    if output.suffix not in SUFFIXES:
        raise CheckpointError(f"{output} has the suffix {output.suffix!r}; choices: {', '.join(SUFFIXES)}")
    if output.exists() and not args.overwrite:
        raise CheckpointError(f"{output} exists already; --overwrite replaces it")
    return output


def as_file(state: Mapping[str, Tensor], stored: Mapping[str, Any], target: str) -> Mapping[str, Any]:
    """The content of a torch.save file in the structure that the programs of a format expect.

    Args:
        state: the weights with the names of `target`.
        stored: the content of the original checkpoint.
        target: the name of a format.
    """
    entry = next(key_map.entry for key_map in KEY_MAPS if key_map.name == target)
    if not entry:
        return state
    # The predictor reads the classes from a checkpoint of this project.
    kept = ("class_names", "category_ids") if target == OWN else ()
    return {entry: state, **{name: stored[name] for name in kept if name in stored}}
