"""The complete state of a training run: captures, saves and restores it exactly."""

import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ... import distributed
from ...checkpoint import CheckpointError
from ...checkpoint.load import model_state, require_usable
from ...errors import NonFiniteError
from ..loop.ema import ModelEma
from ..loop.running_means import RunningMeans, mean_of_totals
from ..loop.trainer import Trainer
from ..processes.random_states import preserved_random_states, random_states, seed_anew, set_random_states
from ..processes.sharding import gathered, load_whole, part_here, split_optimizer_state

logger = logging.getLogger(__name__)


class CheckpointStore(Protocol):
    """The methods of `detrex_lite.checkpoint.Checkpointer` that `TrainingState` uses."""

    def save(self, name: str, state: dict[str, Any]) -> Path: ...

    def try_saving(self, state: dict[str, Any]) -> None: ...

    def load(self, path: Path) -> dict[str, Any]: ...


def checkpoint_name(iteration: int) -> str:
    """The file name, without suffix, of the checkpoint after `iteration` steps."""
    return f"model_{iteration:07d}"


# The entries of every checkpoint of a run, with their types.
PARTS: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "optimizer": dict,
    "scaler": dict,
    "iteration": int,
    "rng": list,
    "losses": list,
    "best": (dict, type(None)),
    "class_names": list,
    "config": str,
}


def _require_parts(path: Path, state: Mapping[str, Any]) -> None:
    """Raise a CheckpointError for a checkpoint that another program has written or modified."""
    faults = [f"{name} is missing" for name in PARTS if name not in state]
    faults += [
        f"{name} is a {type(state[name]).__name__}"
        for name, kind in PARTS.items()
        if name in state and not isinstance(state[name], kind)
    ]
    if not isinstance(state.get("ema", {}), dict):
        faults.append(f"ema is a {type(state['ema']).__name__}")
    if not faults and state["iteration"] < 0:
        faults.append(f"iteration is {state['iteration']}")
    num_processes = {name: len(state[name]) for name in ("rng", "losses", "scalars") if name in state and not faults}
    if not faults and (not state["rng"] or len(set(num_processes.values())) > 1):
        faults.append(", ".join(f"{name} is of {number} processes" for name, number in num_processes.items()))
    if not faults and state["best"] is not None and not {"metric", "value", "iteration"} <= state["best"].keys():
        faults.append("best has no metric, value or iteration")
    if not faults:
        faults += [
            f"rng[{rank}]: {error!r}" for rank, error in enumerate(map(_random_state_error, state["rng"])) if error
        ]
    if faults:
        raise CheckpointError(
            f"{path} is not a checkpoint from which a run can be resumed: {'; '.join(faults)}. Remove it, and --resume "
            "takes the one before; or give it as train.init_checkpoint"
        )


def _random_state_error(states: Any) -> Exception | None:
    """The error raised by restoring the random states of a process, or None."""
    try:
        with preserved_random_states():
            set_random_states(states)
    except Exception as error:  # each library raises errors of its own
        return error
    return None


def _class_of(optimizer: torch.optim.Optimizer) -> str:
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


class TrainingState:
    """The parts of a run that a checkpoint holds.

    Args:
        model: the model itself, not wrapped.
        trainer: provides the optimizer, the loss scaler and the iteration.
        checkpointer: writes and reads files.
        ema: the running mean of the weights, if there is one.
        class_names: the class names of the data, in the order of the model's classes.
        category_ids: the category ids of these classes in the data set; empty when they are not known.
        config: the resolved config as YAML text.
        seed: the seed of the run, from which generators are reseeded when their states cannot be restored.

    Attributes:
        best: `metric`, `value` and `iteration` of the best evaluation; None before the first evaluation.
        stagnation: `evaluations`, the number of evaluations since the best one, and `iteration`, that of the last
            evaluation counted; None before the first evaluation.
        saved_iteration: the iteration of the last checkpoint that was written; None before the first.
        ema_restart: the state of `EmaRestart`; None before its first restart.
        losses, scalars: running means since the last log line. They are saved so that a resumed run writes the same
            lines.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        trainer: Trainer,
        checkpointer: CheckpointStore,
        ema: ModelEma | None = None,
        class_names: Sequence[str] = (),
        category_ids: Sequence[int] = (),
        config: str = "",
        seed: int = 0,
    ):
        self.model = model
        self.trainer = trainer
        self.checkpointer = checkpointer
        self.ema = ema
        self.class_names = list(class_names)
        self.category_ids = [int(category_id) for category_id in category_ids]
        self.config = config
        self.seed = seed
        self.best: dict[str, Any] | None = None
        self.stagnation: dict[str, Any] | None = None
        self.ema_restart: dict[str, Any] | None = None
        self.saved_iteration: int | None = None
        self.losses = RunningMeans()
        self.scalars = RunningMeans()

    def capture(self) -> dict[str, Any]:
        """The state as a dict of tensors and plain values. Every process must call this; only the main one gets values.

        The tensors of a sharded model are gathered, so that its checkpoints are like those of any other model.
        """
        trainer = self.trainer
        local = random_states(), self.losses.totals(), self.scalars.totals()
        rng, losses, scalars = map(list, zip(*distributed.all_gather_objects(local), strict=True))
        state = {
            "model": gathered(self.model.state_dict()),
            "optimizer": gathered(trainer.optimizer.state_dict()),
            "optimizer_class": _class_of(trainer.optimizer),
            "lr_scheduler": {"max_iter": trainer.max_iter},
            "scaler": trainer.scaler.state_dict(),
            "iteration": trainer.iteration,
            "batches": list(trainer.batches),
            "rng": rng,
            "losses": losses,
            "scalars": scalars,
            "best": self.best,
            "stagnation": self.stagnation,
            "class_names": self.class_names,
            "category_ids": self.category_ids,
            "config": self.config,
        }
        if self.ema is not None:
            state["ema"] = gathered(self.ema.state_dict())
            state["ema_updates"] = self.ema.updates
        if self.ema_restart is not None:
            state["ema_restart"] = self.ema_restart
        return state

    def save(self, name: str) -> Path | None:
        """Write checkpoint `name`. Every process must call this; the main one writes and returns the path.

        Raises:
            NonFiniteError: when weights are not finite; nothing is written in this case.
            OSError: when writing fails; earlier checkpoints are kept.
        """
        bad_here = [key for key, p in self.model.named_parameters() if not torch.isfinite(part_here(p.detach())).all()]
        bad = list(dict.fromkeys(key for keys in distributed.all_gather_objects(bad_here) for key in keys))
        if bad:
            listed = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
            raise NonFiniteError(
                f"after iteration {self.trainer.iteration} weights are not finite: {listed}. Checkpoint "
                f"{name} was not written; the earlier ones are unharmed"
            )
        state = self.capture()
        path = self.checkpointer.save(name, state) if distributed.is_main_process() else None
        distributed.barrier()
        self.saved_iteration = self.trainer.iteration
        return path

    def try_saving(self) -> None:
        """Write a checkpoint and remove it again. Every process must call this.

        Raises:
            ValueError, OSError: on every process, when the checkpoint cannot be written or read back.
        """
        state = self.capture()
        distributed.from_main_process(lambda: self.checkpointer.try_saving(state))

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint: restore everything to its state when the checkpoint was saved.

        Raises:
            CheckpointError: when the checkpoint belongs to another model, optimizer or set of classes, its weights are
                not finite, or an entry is missing or malformed.
        """
        state = self.checkpointer.load(path)
        _require_parts(path, state)
        if self.class_names and state["class_names"] and state["class_names"] != self.class_names:
            raise CheckpointError(
                f"{path} was trained on the classes {state['class_names']}, the data has {self.class_names}; "
                "a run goes on with its own classes only (to fine-tune, give the file as train.init_checkpoint)"
            )
        trainer = self.trainer
        optimizer = _class_of(trainer.optimizer)
        if state.get("optimizer_class", optimizer) != optimizer:
            raise CheckpointError(
                f"{path} is of a run with the optimizer {state['optimizer_class']}, and this config has {optimizer}, "
                "which cannot go on with its state (to start a new run from the weights, give the file as "
                "train.init_checkpoint)"
            )
        try:
            for weights in (state[name] for name in ("model", "ema") if name in state):
                require_usable(model_state(weights), self.model.state_dict())
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        self._take_weights(path, state)
        trainer.iteration = state["iteration"]
        trainer.batches = [(size, number) for size, number in state.get("batches", ())]
        self.best = state["best"]
        self.stagnation = state.get("stagnation")  # older checkpoints have none
        self.ema_restart = state.get("ema_restart")
        self._report_changes(path, state)
        rank, iteration = distributed.rank(), trainer.iteration
        scalars = state.get("scalars", [{} for _ in state["rng"]])  # older checkpoints have none
        if len(state["rng"]) == distributed.world_size():
            self.losses.restart(state["losses"][rank])
            self.scalars.restart(scalars[rank])
            trainer.on_loader_started = lambda: set_random_states(state["rng"][rank])
        else:
            self.losses.restart(mean_of_totals(state["losses"]))
            self.scalars.restart(mean_of_totals(scalars))
            trainer.on_loader_started = lambda: seed_anew(self.seed, iteration, rank)

    def go_back(self, path: Path) -> None:
        """Restore only the weights, their average, and the states of the optimizer and the loss scaler.

        The iteration, the position in the data, the learning rate and the random states do not change.

        Raises:
            CheckpointError: when the checkpoint belongs to another model or optimizer, or an entry is missing.
        """
        state = self.checkpointer.load(path)
        _require_parts(path, state)
        self._take_weights(path, state)

    def _take_weights(self, path: Path, state: Mapping[str, Any]) -> None:
        try:
            load_whole(self.model, state["model"])
            if self.ema is not None:
                self.ema.load_state_dict(state.get("ema", state["model"]), state.get("ema_updates", 0))
            self._restore_optimizer(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} does not fit the model and optimizer of this config, so the run cannot be continued: {error}"
            ) from error
        if self.trainer.scaler.is_enabled() and state["scaler"]:
            self.trainer.scaler.load_state_dict(state["scaler"])

    def _restore_optimizer(self, stored: dict[str, Any]) -> None:
        # Learning rate, weight decay and kernel come from the config and not from the checkpoint, so that a resumed run
        # can change them.
        settings = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.trainer.optimizer.param_groups
        ]
        self.trainer.optimizer.load_state_dict(split_optimizer_state(stored, self.trainer.optimizer))
        for group, setting in zip(self.trainer.optimizer.param_groups, settings, strict=True):
            group.update(setting)

    def _report_changes(self, path: Path, state: dict[str, Any]) -> None:
        if not distributed.is_main_process():
            return
        logger.info("Continuing from %s, after iteration %d.", path, self.trainer.iteration)
        if (self.ema is None) != ("ema" not in state):
            logger.warning(
                "train.model_ema.enabled differs from the run so far: the average %s.",
                "begins now" if self.ema is not None else "is dropped",
            )
        if len(state["rng"]) != distributed.world_size():
            processes = len(state["rng"])
            logger.warning(
                "The run had %d process%s and has %d now: the images of each step stay the same, but models (dropout, "
                "denoising) draw different random numbers from here on.",
                processes,
                "es" * (processes > 1),
                distributed.world_size(),
            )
        old_config, new_config = state["config"].splitlines(), self.config.splitlines()
        changes = (
            [line for line in difflib.ndiff(old_config, new_config) if line[:2] in ("- ", "+ ")]
            if old_config != new_config
            else []
        )
        if changes:
            logger.warning("The config has changed since the checkpoint:\n%s", "\n".join(changes))
