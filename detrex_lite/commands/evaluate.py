"""Evaluating trained weights."""

import argparse
import copy
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..checkpoint import read_checkpoint
from ..config import LazyConfig, trust
from ..engine import clear_errors, device_of, find_engine
from ..engine.for_folder import evaluator_nodes, use_folder, use_split
from ..inference.runs import find_config, find_weights
from .configs import device_named
from .train import start_processes


def run(args: argparse.Namespace) -> int:
    """Evaluate trained weights; see `detrex_lite.cli.evaluate`."""

    def prepare() -> str:
        trust(*args.trust)
        if not args.config_file:  # read here, once for all processes: a checkpoint may be large
            weights = find_weights(args.weights)
            args.saved_config = find_config(weights, read_checkpoint(weights))
        return device_of(config_of(args))

    start_processes(args, evaluate_config, prepare)
    return 0


def evaluate_config(args: argparse.Namespace) -> None:
    """Evaluate the config; runs in each process."""
    with clear_errors(with_traceback=args.traceback):
        _, evaluate = find_engine(args.engine)
        evaluate(config_of(args))


def config_of(args: argparse.Namespace) -> Any:
    """The config of the weights, with the user's data, options and overrides.

    Args:
        args: of `detrex_lite.cli.evaluate`; `saved_config` is the config of the weights, used without `config_file`.

    Raises:
        CheckpointError: when a folder of weights has none.
        ConfigError: when the config or an override is wrong, or `split` is given for data that are not a folder.
        DatasetError: when the folder has no data to evaluate on.
    """
    trust(*args.trust)
    weights = find_weights(args.weights)
    cfg = LazyConfig.load(args.config_file) if args.config_file else copy.deepcopy(args.saved_config)
    options: dict[str, Any] = {
        "train.init_checkpoint": weights,
        "train.output_dir": args.output,
        "train.device": device_named(args.device),
    }
    evaluated = args.split
    if args.data is not None:
        evaluated = Path(use_folder(cfg, args.data, split=args.split or "val").root).name
    elif args.split is not None:
        use_split(cfg, args.split)
    if args.output is None and evaluated is not None:
        folder = Path(OmegaConf.select(cfg, "train.output_dir", default="output"))
        options["train.output_dir"] = folder / f"evaluation_{evaluated}"
    if options["train.output_dir"] is not None:
        _results_in(Path(options["train.output_dir"]), cfg)
    overrides = [f"{key}={value}" for key, value in options.items() if value is not None]
    return LazyConfig.apply_overrides(cfg, [*overrides, *args.opts])


def _results_in(output_dir: Path, cfg: Any) -> None:
    """Let evaluators that write into the folder of the run, whose full path is part of a saved config, write here."""
    run = OmegaConf.select(cfg, "train.output_dir", default="output")
    for evaluator in evaluator_nodes(cfg):
        folder = evaluator.get("output_dir")
        if isinstance(folder, str) and Path(folder).is_relative_to(run):
            evaluator.output_dir = str(output_dir / Path(folder).relative_to(run))
