"""Predicts the objects in users' images with a model in torch."""

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..checkpoint import CheckpointError, LoadReport, load_checkpoint, read_checkpoint
from ..config import LazyConfig, instantiate
from ..data import DatasetError, decode_image, read_image
from ..devices import choose_device, is_out_of_memory
from ..ops.cpu import accelerate
from ..structures import Boxes, Instances
from .base import ImagePredictor, check_array, check_pixels
from .class_names import find_classes
from .runs import find_config, find_weights, is_weights
from .thresholds import DEFAULT, ScoreThreshold
from .views import scaled_size

logger = logging.getLogger(__name__)

ImageLike = str | Path | np.ndarray | Tensor | Image.Image


class Predictor(ImagePredictor[Instances]):
    """Builds the model of a config with trained weights and finds objects in images.

    Images may be paths, PIL images, (H, W, 3) uint8 arrays or (3, H, W) uint8 tensors. **Arrays and tensors are read as
    RGB**; for the BGR arrays of OpenCV, set `image_format="BGR"`. Files are rotated by their EXIF orientation; PIL
    images are not rotated.

    Each result is an `Instances` on the CPU with `pred_boxes` (xyxy in pixels of the original image), `scores` and
    `pred_classes` (indices into `class_names`). Models with masks also return `pred_masks` (n, height, width) bool, the
    pixels of each object.

    `Predictor("output/")` loads the best checkpoint of a run, `Predictor("model_best.pth")` this checkpoint. The config
    is the one that training stored in the file, or else `config.yaml` next to it.

    Args:
        config: the path of a config file, or a loaded config. `model` is built, and images are resized by
            `dataloader.test.mapper.augmentation` as in evaluation. The path of a checkpoint or of a run's folder is
            used as `weights`.
        weights: a checkpoint file of this or another project (see `load_checkpoint`), or the folder of a run (see
            `detrex_lite.inference.runs.find_weights`). Averaged weights (EMA) are preferred. None takes
            `train.init_checkpoint` of the config.
        device: "auto" is a GPU if one is available; otherwise as for `torch.device`.
        score_threshold: detections with lower scores are left out, 0..1: a number, a dict of class name -> number, or
            a number for each class. The default is 0.5. Calls may override it: `predictor(image,
            score_threshold=0.1)`.
        batch_size: number of images in a batch. With images of different sizes, large batches have much padding.
        trusted: allow the checkpoint to execute code while it is read; only for files that you trust.
        image_format: "RGB" or "BGR", the order of the channels of arrays and tensors.
        overrides: changes of the config as on the command line, such as `["model.num_queries=100"]`.

    Attributes:
        model: the model, in eval mode on `device`; accelerated on a CPU, see `detrex_lite.ops.cpu.restore`.
        class_names: K names.
        category_ids: K category ids of the classes in the data set.

    Raises:
        ValueError: for arguments of another type or outside their range, weights without a config, a config without
            `model`, or weights that are not of this model.
    """

    naming_errors = (DatasetError,)

    def __init__(
        self,
        config: str | Path | DictConfig | Mapping[str, Any] | None = None,
        weights: str | Path | None = None,
        *,
        device: str | torch.device = "auto",
        score_threshold: ScoreThreshold = DEFAULT,
        batch_size: int = 1,
        trusted: bool = False,
        image_format: str = "RGB",
        overrides: Sequence[str] = (),
    ):
        super().__init__(score_threshold=score_threshold, batch_size=batch_size, image_format=image_format)
        self.device = choose_device(device)
        if is_weights(config):
            if weights is not None:
                raise ValueError(f"{config} is not a config file, and weights={str(weights)!r} is given as well")
            config, weights = None, config
        loaded = None if config is None else _load_config(config, overrides)
        if loaded is None and weights is None:
            raise ValueError("give a config and weights, or a checkpoint or the folder of a run, which have both")
        chosen = weights
        if chosen is None and loaded is not None:
            chosen = OmegaConf.select(loaded, "train.init_checkpoint")
        file = find_weights(chosen) if chosen else None
        stored = read_checkpoint(file, trusted=trusted) if file is not None else None
        if loaded is None:
            assert file is not None
            assert stored is not None
            loaded = _load_config(find_config(file, stored), overrides)
        config, weights = loaded, file
        self.model = _build_model(config, stored, str(weights)).to(self.device).eval()
        if self.device.type == "cpu":
            accelerate(self.model)
        augmentation = OmegaConf.select(config, "dataloader.test.mapper.augmentation")
        self.augmentation = instantiate(augmentation) if augmentation is not None else None
        classes = find_classes(self.model.num_classes, stored or {}, config)
        self.set_classes(classes.names, classes.category_ids)

    def read(self, image: ImageLike) -> tuple[Tensor, tuple[int, int]]:
        """See `ImagePredictor.read`: pixels are (3, H, W) uint8, RGB."""
        pixels = self._to_rgb_tensor(image)
        return pixels, (pixels.shape[-2], pixels.shape[-1])

    def _to_rgb_tensor(self, image: ImageLike) -> Tensor:
        if isinstance(image, (str, Path)):
            return read_image(image)
        if isinstance(image, Image.Image):
            return decode_image(image)
        if isinstance(image, np.ndarray):
            check_array(image)
            # Copies read-only arrays, such as those of PIL images, because torch warns about them.
            pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
        elif isinstance(image, Tensor):
            check_pixels(image, channels=0, expected="a (3, H, W) uint8 tensor")
            pixels = image.detach().cpu()
        else:
            raise ValueError(
                f"cannot read a {type(image).__name__} as an image; give a path, a PIL image, "
                "an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor"
            )
        return pixels.flip(0) if self.image_format == "BGR" else pixels

    @torch.no_grad()
    def detect(self, batch: Sequence[dict[str, Any]], thresholds: np.ndarray | None = None) -> list[Instances]:
        """See `ImagePredictor.detect`."""
        limits = torch.from_numpy(self.thresholds() if thresholds is None else thresholds)
        results = []
        for output in self.model(batch):
            instances = output["instances"]
            scores, classes = instances.scores.detach().cpu(), instances.pred_classes.detach().cpu()
            info = self.image_info(scores.float().numpy(), classes.numpy())
            # Compared in float32, the dtype of scores, so that 0.9 passes 0.9. Selected before the transfer, so that
            # masks of other detections are not copied to the CPU.
            passed = scores.float() >= limits.float()[classes]
            results.append(instances[passed.to(instances.scores.device)].to("cpu").described(**info._asdict()))
        return results

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `ImagePredictor.is_out_of_memory`."""
        return is_out_of_memory(error)

    def crop(self, pixels: Tensor, frame: tuple[int, int, int, int]) -> Tensor:
        """See `ImagePredictor.crop`."""
        x0, y0, x1, y1 = frame
        return pixels[:, y0:y1, x0:x1]

    def mirror(self, pixels: Tensor) -> Tensor:
        """See `ImagePredictor.mirror`."""
        return pixels.flip(-1)

    def make_result(self, size: tuple[int, int], arrays: dict[str, np.ndarray]) -> Instances:
        """See `ImagePredictor.make_result`."""
        fields: dict[str, Any] = {
            "pred_boxes": Boxes(torch.from_numpy(arrays["boxes"])),
            "scores": torch.from_numpy(arrays["scores"]),
            "pred_classes": torch.from_numpy(arrays["classes"]),
        }
        if "masks" in arrays:
            fields["pred_masks"] = torch.from_numpy(arrays["masks"])
        return Instances(size, **fields)

    def resize(self, image: Tensor, scale: float = 1.0) -> Tensor:
        """See `ImagePredictor.resize`: applies the test transform."""
        if scale != 1:
            height, width = self.resize(image).shape[-2:]
            return v2.functional.resize(image, list(scaled_size((height, width), scale)), antialias=True)
        if self.augmentation is None:
            return image
        # Transforms of the test set may expect objects, so they get an empty list of them.
        size = (image.shape[-2], image.shape[-1])
        boxes = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=size)
        target = {"boxes": boxes, "labels": torch.zeros(0, dtype=torch.int64)}
        augmented, _ = self.augmentation(tv_tensors.Image(image), target)
        return augmented.as_subclass(Tensor)


def _load_config(config: str | Path | DictConfig | Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    if isinstance(config, (str, Path)):
        config = LazyConfig.load(str(config))
    elif not isinstance(config, DictConfig):
        config = OmegaConf.create(dict(config), flags={"allow_objects": True})
    assert isinstance(config, DictConfig)
    if overrides:
        config = LazyConfig.apply_overrides(copy.deepcopy(config), list(overrides))
    if "model" not in config:
        raise ValueError(f"the config has no 'model'; its sections are {', '.join(map(str, config))}")
    return config


def _build_model(config: DictConfig, stored: Mapping[str, Any] | None, weights: str) -> Any:
    """Build the model with the weights of a checkpoint's content, or with initial weights without a checkpoint."""
    if stored is None:
        logger.warning("No weights were given: the model has its initial weights, and its detections are meaningless.")
        return instantiate(config.model)
    model, _ = build_trained(config, stored, weights)
    return model


def build_trained(
    config: DictConfig, stored: Mapping[str, Any], source: str, *, prefer_ema: bool = True
) -> tuple[Any, LoadReport]:
    """Build the model of a config with the weights of a checkpoint, on the CPU.

    Args:
        config: the config; its `model` is built without pre-trained weights of the backbone.
        stored: content of the checkpoint file.
        source: name of the file, for messages.
        prefer_ema: load the running mean of the weights if the checkpoint has one.

    Returns:
        The model, and the report of loading the checkpoint.

    Raises:
        CheckpointError: when the checkpoint is not of this model, or lacks weights that evaluation needs.
    """
    model = instantiate(without_pretrained_backbone(config).model)
    return model, load_trained(model, stored, source, prefer_ema=prefer_ema)


def without_pretrained_backbone(config: DictConfig) -> DictConfig:
    """Return the config without pre-trained weights of the backbone.

    For a model that gets all its weights from a checkpoint: backbone weights would be downloaded only to be replaced.
    """
    if OmegaConf.select(config, "model.backbone.weights") is None:
        return config
    config = copy.deepcopy(config)
    config.model.backbone.weights = None
    return config


def load_trained(model: Any, stored: Mapping[str, Any], source: str, *, prefer_ema: bool = True) -> LoadReport:
    """Load the weights of a checkpoint's content into a model, for evaluation.

    Args:
        model: the model.
        stored: content of the checkpoint file.
        source: name of the file, for messages.
        prefer_ema: load the running mean of the weights if the checkpoint has one.

    Raises:
        CheckpointError: when the checkpoint is not of this model, or lacks weights that evaluation needs.
    """
    try:
        report = load_checkpoint(model, stored, prefer_ema=prefer_ema)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    report.require_complete(source)
    return report
