"""Averaging the weights of checkpoints."""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ..checkpoint import CheckpointError, read_checkpoint, save_atomic
from ..checkpoint.averaging import Checkpoint, Soup, average, ema_weights, greedy_soup, read_for_average
from ..config import ConfigError, LazyConfig, trust
from ..engine.run import evaluate_by
from ..errors import printable
from ..evaluation import run_evaluation
from ..inference.predictor import load_trained
from ..inference.runs import find_config, find_weights
from .convert_checkpoint import output_file
from .refusal import refuse

DEFAULT_METRIC = "bbox/AP"


def run(args: argparse.Namespace) -> int:
    """Average checkpoints; see `detrex_lite.cli.average`."""
    try:
        _average(args)
    except (ValueError, OSError) as error:
        return refuse("average", error, with_traceback=args.traceback)
    return 0


def _average(args: argparse.Namespace) -> None:
    output = output_file(args)
    trust(*args.trust)
    paths = [find_weights(path) for path in args.weights]
    if len(paths) < 2:
        raise CheckpointError("an average needs at least two checkpoints, got one")

    def read(positions: Sequence[int]) -> Iterator[Checkpoint]:
        chosen = [paths[position] for position in positions]
        return read_for_average(chosen, prefer_ema=not args.last_weights, trusted=args.trusted)

    if args.greedy:
        soup = _greedy_soup(args, paths, read, output)
        mean, weights = soup.checkpoint, [1 / len(soup.chosen) if k in soup.chosen else 0.0 for k in range(len(paths))]
    else:
        ema = None if args.ema is None else ema_weights(len(paths), args.ema)
        mean = average(read(range(len(paths))), ema)
        weights = [1 / len(paths)] * len(paths) if ema is None else ema
    parts = [{"file": str(path), "share": weight} for path, weight in zip(paths, weights, strict=True)]
    content: Any = mean.state
    if output.suffix != ".safetensors":
        content = {"model": mean.state, **mean.about, "average_of": parts}
    save_atomic(content, output)
    for part in parts:
        print(f"{part['share']:7.2%}  {printable(str(part['file']))}")
    print(f"the average of {len(mean.state)} tensors: {printable(str(output))}")


def _greedy_soup(args: argparse.Namespace, paths: Sequence[Path], read: Any, output: Path) -> Soup:
    """Choose checkpoints by `train.best_metric` of their config."""
    config = _config(args, paths[0])
    config = LazyConfig.apply_overrides(config, args.opts)
    config.train.init_checkpoint = str(paths[0])
    config.train.trust_init_checkpoint = args.trusted
    config.train.output_dir = f"{output.with_suffix('')}_evaluation"
    metric = config.train.get("best_metric") or DEFAULT_METRIC
    soups: list[Soup] = []

    def loop(model: Any, loader: Any, evaluator: Any) -> dict[str, dict[str, float]]:
        def evaluate(checkpoint: Checkpoint) -> float:
            load_trained(model, checkpoint.state, str(checkpoint.path))
            score = _score(run_evaluation(model, loader, evaluator), metric)
            print(f"{metric} {score:.2f}", flush=True)
            return score

        soups.append(greedy_soup(len(paths), read, evaluate))
        return {}

    evaluate_by(loop, config)
    [soup] = soups
    for path, score in zip(paths, soup.scores, strict=True):
        print(f"{metric} {score:.2f} alone: {printable(str(path))}")
    print(f"{metric} {soup.score:.2f} of the average of {len(soup.chosen)}")
    return soup


def _config(args: argparse.Namespace, first: Path) -> DictConfig:
    if args.config_file:
        return LazyConfig.load(args.config_file)
    return find_config(first, read_checkpoint(first, trusted=args.trusted))


def _score(results: dict[str, dict[str, float]], metric: str) -> float:
    group, _, name = metric.partition("/")
    if name not in results.get(group, {}):
        raise ConfigError([f"the evaluation has no metric {metric!r} (train.best_metric), by which to choose"])
    score = results[group][name]
    return -math.inf if math.isnan(score) else score
