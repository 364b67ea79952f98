"""The config that a command line describes: of a named model or a file, optionally for a folder of images."""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from .. import SHIPPED_IN
from ..cli.models import AUTO, is_config_file, shipped_names
from ..config import ConfigError, LazyConfig, trust
from ..devices import choose_device
from ..engine.for_folder import MAX_ITER, Choices, Plan, for_folder, set_image_size
from ..inference.runs import CONFIG_FILE
from ..zoo import ZooEntry, ZooError, find_entry, load_zoo, obtain

SMALL_MODEL, MODEL, LARGE_MODEL = "dino_small", "rtdetrv2_r18", "dino_r50"  # the choices of `auto`
ENOUGH_FOR_LARGE = 16 * 2**30  # bytes of a GPU's memory


def plan_of(args: argparse.Namespace) -> Plan:
    """The whole config with the user's options and overrides, and the reasons for its settings.

    Args:
        args: arguments of `detrex_lite.cli.train`, after its checks; `args.fine_tune` is replaced by a file path.

    Raises:
        ConfigError: when a config or an override is wrong.
        DatasetError: when the folder has no data to train on.
        ZooError: when no checkpoint has the name, or its weights cannot be downloaded.
    """
    trust(*args.trust)
    if args.model == AUTO:
        args.model = _model_for(args.device)
    entry = _weights_entry(args)
    name = args.model or (entry.name if entry else "")  # the command line names one of the two
    cfg, origin = _recipe(args.model, entry)
    weights = _weights_file(args, entry)
    if args.data is None:
        return Plan(LazyConfig.apply_overrides(cfg, [*_plain_overrides(args, cfg, weights), *args.opts]), ())
    output = args.output or _output_of(args, cfg) or f"output/{Path(name).stem}_{Path(args.data).resolve().name}"
    is_batch_kept = args.resume and args.batch is None and _keep_batch(args, Path(os.path.expanduser(output)))
    overrides = {key: value for key, _, value in (word.lstrip("+").partition("=") for word in args.opts)}
    choices = Choices(
        weights=weights,
        backbone=overrides.get("pretrained.backbone"),
        epochs=args.epochs,
        batch=args.batch,
        size=args.size,
        lr=args.lr,
        device=device_named(args.device),
        workers=args.workers,
        seed=args.seed,
        output=output,
        overrides=frozenset(overrides),
    )
    plan = for_folder(cfg, args.data, choices)
    settings = list(plan.settings)
    if is_batch_kept:
        reason = "as in the run that continues"
        settings = [each._replace(reason=reason) if each.name == "batch" else each for each in settings]
    settings.insert(0, settings[0]._replace(name="model", value=name, reason=origin, option=""))
    return Plan(LazyConfig.apply_overrides(plan.cfg, args.opts), tuple(settings))


def settle(args: argparse.Namespace, plan: Plan) -> None:
    """Fix the arguments that depend on free memory, so that every process makes the same plan."""
    if args.data is not None:
        train = plan.cfg.train
        args.batch, args.device = plan.cfg.dataloader.train.total_batch_size, train.device
        args.opts = [*args.opts, f"train.accumulate_steps={train.get('accumulate_steps', 1)}"]


def _keep_batch(args: argparse.Namespace, run: Path) -> bool:
    """Take the batch size of a resumed run from its config, because less memory may be free now.

    Returns:
        Whether the folder of the run has a config.
    """
    if not (run / CONFIG_FILE).is_file():
        return False
    saved = LazyConfig.load(run / CONFIG_FILE)
    args.batch = saved.dataloader.train.total_batch_size
    args.opts = [f"train.accumulate_steps={saved.train.get('accumulate_steps', 1)}", *args.opts]
    return True


def device_named(name: str | None) -> str | None:
    """The device with the name that the user typed; None for None.

    Raises:
        ConfigError: when the device is not available.
    """
    if name is None:
        return None
    try:
        return str(choose_device(name))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _model_for(device: str | None) -> str:
    """The model that `auto` chooses for a device."""
    if device == "cpu" or not torch.cuda.is_available():
        return SMALL_MODEL
    memory = torch.cuda.get_device_properties(device if device not in (None, AUTO) else "cuda").total_memory
    return LARGE_MODEL if memory >= ENOUGH_FOR_LARGE else MODEL


def _recipe(model: str | None, entry: ZooEntry | None) -> tuple[DictConfig, str]:
    """The config of a model, and a description of where it is from."""
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


def _output_of(args: argparse.Namespace, cfg: DictConfig) -> str | None:
    """The output folder that the user's own config file sets; None for shipped configs, whose folders are examples."""
    if args.model is None or not is_config_file(args.model):
        return None
    file = Path(os.path.expanduser(args.model)).resolve()
    is_shipped = any(file.is_relative_to(SHIPPED_IN / folder) for folder in ("projects", "configs"))
    output: str | None = OmegaConf.select(cfg, "train.output_dir", default=None)
    return None if is_shipped else output


def _relative(file: Path) -> str:
    """The path of a shipped file for messages, from `projects` on."""
    return Path(*file.parts[file.parts.index("projects") :]).as_posix() if "projects" in file.parts else str(file)


def _weights_entry(args: argparse.Namespace) -> ZooEntry | None:
    """The published checkpoint that `--fine-tune` names; None for a file or without the option."""
    name = args.fine_tune
    if name is None or (name != AUTO and os.path.exists(os.path.expanduser(name))):
        return None
    zoo = load_zoo()
    if name != AUTO:
        return find_entry(zoo, name)
    if args.model in zoo:
        return zoo[args.model]
    file = None if is_config_file(args.model) else shipped_names().config_of(args.model)
    of_config = [entry for entry in zoo.values() if file is not None and entry.config_file.resolve() == file.resolve()]
    if not of_config:
        project = file.parent.parent.name if file else ""
        similar = [entry.name for entry in zoo.values() if entry.project == project]
        hint = f"; checkpoints of {project}: {', '.join(similar)}" if similar else "; see `detrex-lite zoo list`"
        raise ZooError(f"no weights were published for {args.model}{hint}. Choose others by --fine-tune NAME or FILE")
    return min(of_config, key=lambda entry: not entry.url)  # the first that can be downloaded


def _weights_file(args: argparse.Namespace, entry: ZooEntry | None) -> str | None:
    """The path of the weights, which are downloaded if they are not in the cache."""
    if entry is not None:
        args.fine_tune = str(obtain(entry).path)
    return os.path.expanduser(args.fine_tune) if args.fine_tune else None


def _plain_overrides(args: argparse.Namespace, cfg: DictConfig, weights: str | None) -> list[str]:
    """The options as overrides, for a config that is used with its own data."""
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
    changes = {key: value for key, value in values.items() if value is not None}
    if (changes or args.size is not None) and "train" not in cfg:
        raise ConfigError(f"{args.model} has no 'train': it is the config of a model, not of a training")
    if args.size is not None:
        set_image_size(cfg, args.size)
    if args.epochs is not None:
        cfg.train.max_iter = MAX_ITER
    return [f"{key}={value}" for key, value in changes.items()]
