"""Write a trained detector's weights under this project's names, or under those of another project.

    python tools/convert_checkpoint.py --config-file CONFIG --weights IN.pth --output OUT.safetensors
    python tools/convert_checkpoint.py --config-file CONFIG --weights IN.pth --output OUT.pth --to mmdetection

The checkpoint may have any names that this project reads; it must be of the config's model, whole. Overrides of the
config may follow. What only training uses (label embeddings of denoising queries) may be missing, and is left out.

Exit status: 0 when the file was written, 2 when it was not.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from detrex_lite.checkpoint import KEY_MAPS, CheckpointError, convert_state_dict, read_checkpoint, save_atomic
from detrex_lite.config import ConfigError, LazyConfig, explain, trust
from detrex_lite.config.trusted import add_trust_argument
from detrex_lite.inference.predictor import build_trained

OWN = KEY_MAPS[0].name
SUFFIXES = (".pth", ".pt", ".safetensors")


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="convert_checkpoint.py"
    )
    formats = ", ".join(dict.fromkeys(key_map.name for key_map in KEY_MAPS))
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config with the model")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the checkpoint to read")
    parser.add_argument("--output", required=True, metavar="FILE", help=f"what to write: {', '.join(SUFFIXES)}")
    parser.add_argument("--to", default=OWN, metavar="FORMAT", help=f"whose names: {formats}; default: %(default)s")
    parser.add_argument("--no-ema", action="store_true", help="the last weights, not their running mean (EMA)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output when it is there already")
    parser.add_argument("--trusted", action="store_true", help="the weights may run code while they are read")
    add_trust_argument(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="config overrides")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = argument_parser().parse_intermixed_args(arguments)
    try:
        convert(args)
    except (CheckpointError, ConfigError, OSError) as error:
        print(f"convert_checkpoint.py: {explain(error)}", file=sys.stderr)
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
    # The predictor reads what the classes are called from a checkpoint of this project.
    names = {"class_names": stored["class_names"]} if target == OWN and "class_names" in stored else {}
    return {entry: state, **names}


if __name__ == "__main__":
    sys.exit(main())
