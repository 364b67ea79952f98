"""The config that a command line describes: of a model by name or a file, perhaps for a folder of images."""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ..cli.models import AUTO, is_config_file, shipped_names
from ..config import ConfigError, LazyConfig, trust
from ..devices import choose_device
from ..engine.for_folder import MAX_ITER, Choices, Plan, for_folder, set_image_size
from ..zoo import ZooEntry, ZooError, find_entry, load_zoo, obtain

SMALL_MODEL, MODEL, LARGE_MODEL = "dino_small", "rtdetrv2_r18", "dino_r50"  # which `auto` chooses from
ENOUGH_FOR_LARGE = 16 * 2**30  # bytes of a GPU's memory


def plan_of(args: argparse.Namespace) -> Plan:
    """The whole config with the user's options and overrides, and why it is as it is.

    Args:
        args: of `detrex_lite.cli.train`, checked by it; `args.fine_tune` becomes the path of a file.

    Raises:
        ConfigError: when a config or an override is wrong.
        DatasetError: when the folder has nothing to train on.
        ZooError: when there are no such weights, or they cannot be had.
    """
    trust(*args.trust)
    if args.model == AUTO:
        args.model = _model_for(args.device)
    entry = _weights_entry(args)
    cfg, origin = _recipe(args.model, entry)
    weights = _weights_file(args, entry)
    if args.data is None:
        return Plan(LazyConfig.apply_overrides(cfg, [*_plain_overrides(args, cfg, weights), *args.opts]), ())
    choices = Choices(
        weights=weights,
        epochs=args.epochs,
        batch=args.batch,
        size=args.size,
        lr=args.lr,
        device=device_named(args.device),
        workers=args.workers,
        seed=args.seed,
        output=args.output or f"output/{Path(args.model or entry.name).stem}_{Path(args.data).resolve().name}",
        overrides=frozenset(word.lstrip("+").partition("=")[0] for word in args.opts),
    )
    plan = for_folder(cfg, args.data, choices)
    settings = list(plan.settings)
    settings.insert(0, settings[0]._replace(name="model", value=args.model or entry.name, reason=origin, option=""))
    return Plan(LazyConfig.apply_overrides(plan.cfg, args.opts), tuple(settings))


def settle(args: argparse.Namespace, plan: Plan) -> None:
    """Change the arguments so that every process plans the same, however much memory it finds."""
    if args.data is not None:
        train = plan.cfg.train
        args.batch, args.device = plan.cfg.dataloader.train.total_batch_size, train.device
        args.opts = [*args.opts, f"train.accumulate_steps={train.get('accumulate_steps', 1)}"]


def device_named(name: str | None) -> str | None:
    """A device by the name that a user gave; None for None.

    Raises:
        ConfigError: when there is no such device.
    """
    if name is None:
        return None
    try:
        return str(choose_device(name))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _model_for(device: str | None) -> str:
    """What `auto` stands for."""
    if device == "cpu" or not torch.cuda.is_available():
        return SMALL_MODEL
    memory = torch.cuda.get_device_properties(device if device not in (None, AUTO) else "cuda").total_memory
    return LARGE_MODEL if memory >= ENOUGH_FOR_LARGE else MODEL


def _recipe(model: str | None, entry: ZooEntry | None) -> tuple[DictConfig, str]:
    """The config that a model stands for, and where it is from."""
    if model is None:
        assert entry is not None
        return entry.load_config(), f"the config of the checkpoint {entry.name}: {_relative(entry.config_file)}"
    if is_config_file(model):
        return LazyConfig.load(model), f"config file {model}"
    file = shipped_names().config_of(model)
    if file is None:
        entry = find_entry(load_zoo(), model)
        return entry.load_config(), f"the config of the checkpoint {model}: {_relative(entry.config_file)}"
    return LazyConfig.load(file), _relative(file)


def _relative(file: Path) -> str:
    """The path of a shipped file as messages write it."""
    return Path(*file.parts[file.parts.index("projects") :]).as_posix() if "projects" in file.parts else str(file)


def _weights_entry(args: argparse.Namespace) -> ZooEntry | None:
    """The published checkpoint that `--fine-tune` names; None for a file, and without the option."""
    named = args.fine_tune
    if named is None or (named != AUTO and os.path.exists(os.path.expanduser(named))):
        return None
    zoo = load_zoo()
    if named != AUTO:
        return find_entry(zoo, named)
    if args.model in zoo:
        return zoo[args.model]
    file = None if is_config_file(args.model) else shipped_names().config_of(args.model)
    of_config = [entry for entry in zoo.values() if file is not None and entry.config_file.resolve() == file.resolve()]
    if not of_config:
        project = file.parent.parent.name if file else ""
        near = [entry.name for entry in zoo.values() if entry.project == project]
        hint = f"; of {project} there are: {', '.join(near)}" if near else "; `detrex-lite zoo list` names all"
        raise ZooError(f"no weights were published for {args.model}{hint}. Choose some by --fine-tune NAME or FILE")
    return min(of_config, key=lambda entry: not entry.url)  # the first that can be downloaded


def _weights_file(args: argparse.Namespace, entry: ZooEntry | None) -> str | None:
    """The path of the weights, which are downloaded when they are not there yet."""
    if entry is not None:
        args.fine_tune = str(obtain(entry).path)
    return os.path.expanduser(args.fine_tune) if args.fine_tune else None


def _plain_overrides(args: argparse.Namespace, cfg: DictConfig, weights: str | None) -> list[str]:
    """The options as overrides of a config that keeps its data."""
    values: dict[str, Any] = {
        "dataloader.train.total_batch_size": args.batch,
        "optimizer.lr": args.lr,
        "train.max_epochs": args.epochs,
        "train.device": device_named(args.device),
        "train.seed": args.seed,
        "train.output_dir": args.output,
        "train.init_checkpoint": weights,
        "dataloader.train.num_workers": args.workers,
        "dataloader.test.num_workers": args.workers,
    }
    given = {key: value for key, value in values.items() if value is not None}
    if (given or args.size is not None) and "train" not in cfg:
        raise ConfigError(f"{args.model} has no 'train': it is the config of a model, and not of a training")
    if args.size is not None:
        set_image_size(cfg, args.size)
    if args.epochs is not None:
        cfg.train.max_iter = MAX_ITER
    return [f"{key}={value}" for key, value in given.items()]
