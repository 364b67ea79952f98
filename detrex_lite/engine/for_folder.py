"""Adapts the training of any config to a folder of the user's images, and explains each setting that it chooses.

cfg = LazyConfig.load("projects/dino/configs/dino_r50_4scale_12ep.py")
plan = for_folder(cfg, "photos/")
print(plan.describe())
train(plan.cfg)
"""

import copy
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..config import ConfigError, get_config
from ..data import DatasetError, FoundDataset, find_dataset
from ..data.transforms import CROP_RANGE, MAX_SIZE, SHORT_EDGES, SHORT_EDGES_BEFORE_CROP
from ..devices import usable_cores
from . import derived
from .memory import MemoryNeed, free_memory, measure_need
from .regrets import enough_queries

# The configs of small models train on drawn shapes, whose schedules say little about photographs. Small models always
# train from scratch, and `derived.max_epochs` triples the epochs for that.
SMALL_EPOCHS = 3
EVALUATIONS = 20  # per run
SHARE_OF_MEMORY = 0.8  # fraction of the free memory that a step may use; the estimate is not exact
FEWEST_STEPS = 4  # per epoch; limits the batch of very small data sets
LARGEST_STEP = {"square": 16, "short edge": 4}  # images per step, as common for fine-tuning these models on one device
SMALLEST = 224  # pixels; no smaller size is chosen, however small the images are
SIZE_STEP = 32  # pixels; image sides are multiples of it


MAX_ITER = "${detrex_lite.call:detrex_lite.engine.epochs.default_max_iter}"  # of configs whose length is in epochs


class Setting(NamedTuple):
    """One line of a plan.

    Attributes:
        name: the name of the setting.
        value: its value as text.
        reason: why it has this value.
        option: the option or key that changes it.
    """

    name: str
    value: str
    reason: str
    option: str = ""


@dataclass(frozen=True)
class Plan:
    """A config for a folder, with the reasons for its settings.

    Attributes:
        cfg: the complete config; derived numbers, such as the learning rate, are interpolations.
        settings: in reading order.
    """

    cfg: DictConfig
    settings: tuple[Setting, ...]

    def describe(self) -> str:
        """One line per setting, with its reason and its option."""
        width = max(len(setting.name) for setting in self.settings)
        lines = []
        for name, value, reason, option in self.settings:
            suffix = f"  [{option}]" if option else ""
            lines.append(f"{name:<{width}}  {value}{f' ({reason})' if reason else ''}{suffix}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The user's choices; a value that is None is derived.

    Attributes:
        weights: a detector's checkpoint to start from.
        backbone: a file with weights of the backbone; with neither of the two, training starts from scratch.
        epochs, batch, workers, seed: numbers.
        size: the side of square images, otherwise the short side, in pixels.
        lr: the learning rate.
        device: "cpu", "cuda", "cuda:1", ...
        output: the output folder of the run.
        overrides: keys of the config that the user has overridden; their values are kept and only reported.
    """

    weights: str | None = None
    backbone: str | None = None
    epochs: int | None = None
    batch: int | None = None
    size: int | None = None
    lr: float | None = None
    device: str | None = None
    workers: int | None = None
    seed: int | None = None
    output: str | None = None
    overrides: frozenset[str] = frozenset()


def for_folder(cfg: DictConfig, folder: str | os.PathLike[str], choices: Choices | None = None) -> Plan:
    """Adapt the training of a config to the images of a folder.

    Args:
        cfg: the config of any training; it is not modified.
        folder: images and annotations in a layout that `find_dataset` knows.
        choices: the settings that are not derived.

    Raises:
        ConfigError: when the config has no data set, or no image size that can be set.
        DatasetError: when the folder has no training images.
    """
    cfg, choices = copy.deepcopy(cfg), choices or Choices()
    planner = _Planner(cfg, str(folder), choices)
    planner.use_data()
    planner.use_device()
    planner.use_weights()
    planner.choose_queries()
    planner.choose_size()
    planner.choose_batch()
    planner.choose_length()
    planner.choose_rest()
    return Plan(cfg, tuple(planner.settings))


def use_folder(
    cfg: DictConfig, folder: str | os.PathLike[str], *, split: str = "val", seed: int | None = None
) -> FoundDataset:
    """Replace the data sets of a config by the images of a folder.

    Args:
        cfg: the config; its `dataset` and the data sets of its loaders and evaluators are modified.
        folder: the folder, in a layout that `find_dataset` knows.
        split: the split to evaluate.
        seed: the seed of a validation split that is drawn at random.

    Raises:
        DatasetError: when the folder or the split does not exist, or the folder contains no data set.
    """
    shipped = get_config("common/data/folder.py")
    loaders = [name for name in ("train", "test") if OmegaConf.select(cfg, f"dataloader.{name}.dataset") is not None]
    shipped.dataset.root = str(Path(os.path.expanduser(folder)).absolute())
    shipped.dataset.masks = "train" in loaders and _reads_masks(cfg.dataloader.train.dataset)
    shipped.dataset.val = split
    if seed is not None:
        shipped.dataset.seed = seed
    cfg.dataset = shipped.dataset
    for name in loaders:
        cfg.dataloader[name].dataset = shipped.dataloader[name].dataset
    _evaluate_on_test_set(cfg)
    dataset = find_dataset(cfg.dataset.root, seed=cfg.dataset.seed, val_share=cfg.dataset.val_share)
    dataset.load(split, masks=cfg.dataset.masks)
    return dataset


def use_split(cfg: DictConfig, split: str) -> None:
    """Evaluate another split of the folder that a config reads.

    Raises:
        ConfigError: when the config does not read a folder.
    """
    dataset = OmegaConf.select(cfg, "dataloader.test.dataset")
    if not isinstance(dataset, DictConfig) or _name(dataset) != "load_split":
        raise ConfigError(f"split {split!r}: the config reads no folder with splits; --data FOLDER names one")
    dataset.split = split
    _evaluate_on_test_set(cfg)


def _evaluate_on_test_set(cfg: DictConfig) -> None:
    """Refer to the loader's data set in the evaluators; in the config of a run it is a copy instead of a reference."""
    for evaluator in evaluator_nodes(cfg):
        if "dataset" in evaluator:
            evaluator.dataset = "${dataloader.test.dataset}"


def evaluator_nodes(cfg: DictConfig) -> list[DictConfig]:
    """The node of the evaluator, and those of the evaluators that a `CombinedEvaluator` joins."""
    evaluator = OmegaConf.select(cfg, "dataloader.evaluator")
    if not isinstance(evaluator, DictConfig):
        return []
    return [evaluator, *(evaluator.get("evaluators") or [])]


class _Planner:
    """Changes a config setting by setting, and records the reasons."""

    def __init__(self, cfg: DictConfig, folder: str, choices: Choices):
        missing = [key for key in ("model", "dataloader", "optimizer", "train") if key not in cfg]
        if missing or OmegaConf.select(cfg, "dataloader.train.dataset") is None:
            raise ConfigError(f"this config has no {missing[0] if missing else 'dataloader.train.dataset'} to change")
        self.cfg, self.folder, self.choices = cfg, folder, choices
        self.settings: list[Setting] = []
        self.is_small = _name(cfg.dataloader.train.dataset) == "load_shapes"
        self.is_realtime = "strong_epochs" in cfg.dataloader
        self.published_batch = int(cfg.dataloader.train.total_batch_size)
        self.folder_data: FoundDataset
        self.train_set: Any

    def add(self, name: str, value: object, reason: str, option: str = "") -> None:
        self.settings.append(Setting(name, str(value), reason, option))

    def use_data(self) -> None:
        """Replace the config's data set by the folder."""
        if self.is_small:
            small = get_config("common/data/folder_small.py").dataloader
            with_masks = _reads_masks(self.cfg.dataloader.train.dataset)
            self.cfg.dataloader.train, self.cfg.dataloader.test = small.train, small.test
            self.cfg.dataloader.train.dataset.masks = with_masks
        if self.choices.seed is not None:
            self.cfg.train.seed = self.choices.seed
        self.folder_data = use_folder(self.cfg, self.folder, seed=self.choices.seed)
        if "train" not in self.folder_data.splits:
            raise DatasetError(f"{self.folder} has no training images: {self.folder_data.describe()}")
        masks = self.cfg.dataset.masks
        self.train_set, validation = (self.folder_data.load(split, masks=masks) for split in ("train", "val"))
        classes = ", ".join(self.folder_data.class_names[:8]) + ", ..." * (len(self.folder_data.class_names) > 8)
        self.add("data", self.folder_data.root, self.folder_data.layout, "--data")
        drawn = ", drawn from all of them with a seed" if self.folder_data.drawn is not None else ""
        self.add("images", f"{len(self.train_set)} for training, {len(validation)} for validation{drawn}", "")
        self.add("classes", len(self.folder_data.class_names), classes)
        for remark in self.folder_data.remarks:
            self.add("remark", remark, "")

    def use_device(self) -> None:
        """Choose the device to train on."""
        device = self.choices.device
        if device in (None, "auto"):
            device = "cuda" if torch.cuda.is_available() else "cpu"
            reason = "the GPU that torch finds" if device == "cuda" else "torch finds no GPU here"
        else:
            reason = "as asked for"
        self.cfg.train.device = device
        self.add("device", device, reason, "--device")
        if device == "cpu" and OmegaConf.select(self.cfg, "train.amp.enabled"):
            self.cfg.train.amp.enabled = False
            self.add("precision", "float32", "mixed precision is for GPUs", "train.amp.enabled=True")
        if device == "cpu" and OmegaConf.select(self.cfg, "train.sync_batch_norm"):
            self.cfg.train.sync_batch_norm = False

    def use_weights(self) -> None:
        """Start from the weights of a detector, or report that there are none."""
        self.cfg.pretrained = {"detector": self.choices.weights, "backbone": self.choices.backbone}
        published = dict(epochs=SMALL_EPOCHS, batch=self.published_batch, lr=float(self.cfg.optimizer.lr))
        if not self.is_small:
            published["epochs"] = int(self.cfg.train.get("max_epochs") or derived.PUBLISHED_EPOCHS)
        self.cfg.published = published
        model, backbone = self.cfg.model, self.cfg.model.get("backbone")
        calls = _calls("derived")
        model.num_classes = calls["model"]["num_classes"]
        if backbone is not None and not self.is_small:
            keys = ["weights"] if self.is_realtime else ["weights", "norm", "freeze_at"]
            if "FrozenBN" not in str(backbone.get("norm")):
                keys = keys[:1]
            backbone.update({key: calls["model"]["backbone"][key] for key in keys if key in backbone})
        if self.choices.weights:
            self.add("weights", self.choices.weights, "new classes are trained from scratch", "--fine-tune")
            return
        if self.choices.backbone and not self.is_small:
            reason = "everything after the backbone is trained from scratch"
            self.add("weights", f"{self.choices.backbone} for the backbone", reason, "pretrained.backbone=FILE")
            return
        hint = (
            "small models are designed for that"
            if self.is_small
            else ("which takes many more epochs and images; --fine-tune starts from published weights")
        )
        self.add("weights", "none: training starts from scratch", hint, "--fine-tune")

    def choose_queries(self) -> None:
        """Raise the number of queries of a detector trained from scratch when an image has more objects than that."""
        num_queries, objects = self.cfg.model.get("num_queries"), int(self.train_set.objects_per_image().max(initial=0))
        if self.choices.weights or num_queries is None or "model.num_queries" in self.choices.overrides:
            return
        if objects > num_queries:
            self.cfg.model.num_queries = enough_queries(objects)
            reason = f"an image has {objects} objects, and the published model has {num_queries} queries"
            self.add("queries", self.cfg.model.num_queries, reason, "model.num_queries=N")

    def choose_size(self) -> None:
        """Choose the size of images, in pixels."""
        kind, published = _image_size(self.cfg)
        size, reason = published, "of the published training"
        if self.is_small:
            reason = "small models are quick at this size"
        if self.choices.size is not None:
            size, reason = self.choices.size, "as asked for"
        elif self.cfg.train.device == "cpu":
            sides = np.minimum(self.train_set.heights, self.train_set.widths)
            if kind == "square":
                sides = np.maximum(self.train_set.heights, self.train_set.widths)
            largest = max(SMALLEST, math.ceil(np.percentile(sides, 95) / SIZE_STEP) * SIZE_STEP)
            if largest < published:
                size, reason = largest, f"most images are no larger, and a CPU is slow; otherwise {published}"
        set_image_size(self.cfg, size)
        unit = "pixels square" if kind == "square" else "pixels for the short side"
        self.add("size", f"{size} {unit}", reason, "--size")

    def choose_batch(self) -> None:
        """Choose the batch size: the one that suits the model, or fewer images when that does not fit into memory."""
        kind, _ = _image_size(self.cfg)
        train = self.cfg.dataloader.train
        target = min(self.published_batch, LARGEST_STEP["square" if self.is_small else kind])
        target = max(1, min(target, len(self.train_set) // FEWEST_STEPS))
        if self.choices.batch is not None:
            train.total_batch_size = self.choices.batch
            self.add("batch", self.choices.batch, "as asked for", "--batch")
            return
        if "dataloader.train.total_batch_size" in self.choices.overrides:
            return
        free = free_memory(self.cfg.train.device)
        need = None if free is None else measure_need(self.cfg, _most_pixels(self.cfg))
        if free is None or need is None:
            train.total_batch_size = target
            self.add("batch", target, "usual for this model; the free memory is not known here", "--batch")
            return
        batch = max(1, min(target, _images_that_fit(need, free)))
        train.total_batch_size = batch
        reason = f"about {need.per_image / 2**30:.1f} GiB for each image, and {free / 2**30:.1f} GiB are free"
        if batch < target:
            self.cfg.train.accumulate_steps = math.ceil(target / batch)
            reason += f"; {self.cfg.train.accumulate_steps} batches make a step"
        self.add("batch", batch, reason, "--batch")

    def choose_length(self) -> None:
        """Choose the epochs, the learning rate and the evaluation period."""
        calls = _calls("derived")
        train, cfg = self.cfg.train, self.cfg
        train.init_checkpoint = calls["train"]["init_checkpoint"]
        train.max_epochs = self.choices.epochs or calls["train"]["max_epochs"]
        train.max_iter = MAX_ITER
        cfg.optimizer.lr = self.choices.lr or calls["optimizer"]["lr"]
        params = cfg.optimizer.get("params")
        if params is not None and not self.is_small and params.get("lr_factor_func") is None:
            params.backbone_lr_factor = calls["optimizer"]["params"]["backbone_lr_factor"]
        if self.is_realtime:
            self._strong_epochs()
        epochs = int(train.max_epochs)
        published = cfg.published.epochs
        reason = "as asked for" if self.choices.epochs else self._why_epochs(published)
        self.add("epochs", epochs, reason, "--epochs")
        lr_reason = (
            "as asked for"
            if self.choices.lr
            else (f"{cfg.published.lr:g} for {cfg.published.batch} images in a step, times the root of the batch ratio")
        )
        self.add("learning rate", f"{float(cfg.optimizer.lr):g}", lr_reason, "--lr")
        train.eval_period, train.eval_epochs = None, max(1, round(epochs / EVALUATIONS))
        train.checkpointer.period, train.checkpoint_epochs = None, train.eval_epochs

    def _why_epochs(self, published: int) -> str:
        images = len(self.train_set)
        if self.is_small:
            return f"for {images} images, from scratch"
        text = f"published {published} for COCO, times sqrt(COCO images / {images} images)"
        is_pretrained = self.choices.weights or self.choices.backbone
        longer = "" if is_pretrained else "; three times as many from scratch"
        return f"{text}, at most {derived.MOST_EPOCHS}{longer}"

    def _strong_epochs(self) -> None:
        """Set the schedules of real-time detectors, such as the end of strong augmentation, for the chosen length."""
        calls = _calls("derived_realtime")["dataloader"]
        self.cfg.lr_multiplier = get_config("common/schedule.py").lr_multiplier_flat_cosine
        self.cfg.dataloader.strong_epochs = calls["strong_epochs"]
        if "mosaic_epochs" in self.cfg.dataloader:
            self.cfg.dataloader.mosaic_epochs = calls["mosaic_epochs"]
        self.cfg.optimizer.params.update(lr_factors=None, weight_decays=None)
        if OmegaConf.select(self.cfg, "train.model_ema.restart") is not None:
            self.cfg.train.model_ema.restart.epoch = "${dataloader.strong_epochs[1]}"

    def choose_rest(self) -> None:
        """Choose the number of worker processes and the output folder."""
        cores, device = usable_cores(), self.cfg.train.device
        workers = self.choices.workers
        reason = "as asked for"
        if workers is None:
            workers = min(2, cores // 2) if device == "cpu" else min(8, cores)
            reason = f"{cores} cores, which train, too" if device == "cpu" else f"{cores} cores"
        for split in ("train", "test"):
            self.cfg.dataloader[split].num_workers = workers
        self.add("workers", workers, reason, "--workers")
        if self.choices.output:
            self.cfg.train.output_dir = self.choices.output
        else:
            self.cfg.train.output_dir += f"_{Path(self.cfg.dataset.root).stem}"
        self.add("output", self.cfg.train.output_dir, "", "--output")


def set_image_size(cfg: DictConfig, size: int) -> None:
    """Set the image size of a config, and scale all sizes that depend on it in proportion.

    Args:
        cfg: the config, which is modified.
        size: the side of square images, otherwise the short side in evaluation, in pixels.

    Raises:
        ConfigError: when the side of square images is not a multiple of 32, or the config has no known image size.
    """
    kind, published = _image_size(cfg)
    if size == published:
        return
    if kind == "square" and size % SIZE_STEP:
        raise ConfigError(f"a size of {size} pixels is not a multiple of {SIZE_STEP}")
    train = cfg.dataloader.train
    if kind == "square":
        cfg.dataloader.image_size = size
        scaled = ((train.mapper.augmentation, "sides"), (train.get("multi_scale"), "sizes"))
        for node, key in scaled:
            values = None if node is None else OmegaConf.select(node, key)
            if isinstance(values, ListConfig):
                node[key] = [_scaled(value, size / published, SIZE_STEP) for value in values]
        return
    factor = size / published
    test, augmentation = cfg.dataloader.test.mapper.augmentation, train.mapper.augmentation
    longest = test.get("max_size", MAX_SIZE)
    for node in (test, augmentation):
        node.max_size = None if longest is None else _scaled(longest, factor)
    test.short_edge_length = size
    defaults = dict(
        short_edge_lengths=SHORT_EDGES, short_edges_before_crop=SHORT_EDGES_BEFORE_CROP, crop_range=CROP_RANGE
    )
    for key, default in defaults.items():
        augmentation[key] = [_scaled(value, factor) for value in augmentation.get(key, default)]
    augmentation.max_size = max(augmentation.max_size or 0, *augmentation.short_edge_lengths)


def _calls(name: str) -> dict[str, Any]:
    """A section of configs/common/derived.py, whose values are interpolations."""
    return OmegaConf.to_container(get_config("common/derived.py")[name], resolve=False)  # type: ignore[return-value]


def _reads_masks(dataset: DictConfig) -> bool:
    return OmegaConf.to_container(dataset, resolve=False).get("masks") is True  # type: ignore[union-attr]


def _name(call: DictConfig) -> str:
    """The name, without modules, of the function or class that a config node calls."""
    target = call.get("_target_")
    return target.rpartition(".")[2] if isinstance(target, str) else getattr(target, "__name__", "")


def _scaled(value: int, factor: float, step: int = 1) -> int:
    return max(step, round(value * factor / step) * step)


def _image_size(cfg: DictConfig) -> tuple[str, int]:
    """("square", side) or ("short edge", length), in pixels, of the images in evaluation."""
    if "image_size" in cfg.dataloader:
        return "square", int(cfg.dataloader.image_size)
    test = OmegaConf.select(cfg, "dataloader.test.mapper.augmentation")
    train = OmegaConf.select(cfg, "dataloader.train.mapper.augmentation")
    if not OmegaConf.is_dict(test) or not OmegaConf.is_dict(train):
        raise ConfigError("this config does not resize its images: there is no size to set")
    return "short edge", int(test.get("short_edge_length", 800))


def _most_pixels(cfg: DictConfig) -> int:
    """The number of pixels of the largest training image."""
    kind, size = _image_size(cfg)
    if kind == "square":
        return size**2
    augmentation = cfg.dataloader.train.mapper.augmentation
    longest = augmentation.get("max_size", MAX_SIZE)
    short = max(augmentation.get("short_edge_lengths", SHORT_EDGES))
    return short * (longest or 2 * short)


def _images_that_fit(need: MemoryNeed, free: int) -> int:
    return int((free * SHARE_OF_MEMORY - need.fixed) / need.per_image)
