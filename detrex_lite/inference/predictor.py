"""Detections in one's own images, from Python."""

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
    """Builds a config's model with trained weights and finds objects in images.

    Images may be paths, PIL images, (H, W, 3) uint8 arrays or (3, H, W) uint8 tensors. **Arrays and tensors
    are taken as RGB**; those of OpenCV are BGR: say so with `image_format="BGR"`. Files are turned as their
    EXIF orientation says; PIL images are not turned.

    Each result is an `Instances` on the CPU with `pred_boxes` (xyxy in pixels of the image as given),
    `scores` and `pred_classes` (indices into `class_names`); of a model with masks also `pred_masks` (n, height, width)
    bool, the pixels of each object.

    `Predictor("output/")` takes the best checkpoint of a run, `Predictor("model_best.pth")` this one: the config is the
    one that training put into the file, or else `config.yaml` beside it.

    Args:
        config: the path of a config file, or a loaded config; `model` is built, and images are resized by
            `dataloader.test.mapper.augmentation` as in evaluation. The path of a checkpoint or of a run's folder is
            taken as `weights`.
        weights: a checkpoint file of this project or another (see `load_checkpoint`), or the folder of a run (see
            `detrex_lite.inference.runs.find_weights`); the averaged weights (EMA) in it are preferred. None takes
            `train.init_checkpoint` of the config.
        device: "auto" is a GPU when there is one; otherwise as `torch.device` has it.
        score_threshold: detections with lower scores are left out, 0..1: a number, a dict of class name -> number, or
            a number for each class. A call may say otherwise: `predictor(image, score_threshold=0.1)`.
        batch_size: so many images at a time. With images of different sizes, large batches hold much padding.
        trusted: allow the checkpoint to execute code while it is read; only for files that you trust.
        image_format: "RGB" or "BGR", the order of the channels of arrays and tensors.
        overrides: changes of the config as on the command line, such as `["model.num_queries=100"]`.

    Attributes:
        model: the model, in eval mode on `device`; accelerated on a CPU, see `detrex_lite.ops.cpu.restore`.
        class_names: K names.
        category_ids: K ids that the data set has for the classes.

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
                raise ValueError(f"{config} is no config file, and weights={str(weights)!r} is given as well")
            config, weights = None, config
        loaded = None if config is None else _load_config(config, overrides)
        if loaded is None and weights is None:
            raise ValueError("give a config and weights, or a checkpoint or the folder of a run, which hold both")
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
            # A copy of read-only arrays, such as those of PIL images, which torch warns of.
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
            # Compared in float32, as scores are: 0.9 passes 0.9. Masks of what is left out do not leave the device.
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
        """See `ImagePredictor.resize`: as the test transform says."""
        if scale != 1:
            height, width = self.resize(image).shape[-2:]
            return v2.functional.resize(image, list(scaled_size((height, width), scale)), antialias=True)
        if self.augmentation is None:
            return image
        # Transforms of the test set may be written for an image with objects: here there are none.
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
    """The model with the weights of a checkpoint's content, or as initialised when there is none."""
    if stored is None:
        logger.warning("No weights were given: the model is as initialised, its detections mean nothing.")
        return instantiate(config.model)
    model, _ = build_trained(config, stored, weights)
    return model


def build_trained(
    config: DictConfig, stored: Mapping[str, Any], source: str, *, prefer_ema: bool = True
) -> tuple[Any, LoadReport]:
    """A config's model with the weights of a checkpoint, on the CPU, and what loading them did.

    Args:
        config: of which `model` is built, without pre-trained weights of its own.
        stored: what the checkpoint file holds.
        source: its name, for messages.
        prefer_ema: take the running mean of the weights where the checkpoint has one.

    Raises:
        CheckpointError: when it is not of this model, or lacks something that evaluation needs.
    """
    model = instantiate(without_pretrained_backbone(config).model)
    return model, load_trained(model, stored, source, prefer_ema=prefer_ema)


def without_pretrained_backbone(config: DictConfig) -> DictConfig:
    """The config for a model that gets all of its weights from a checkpoint.

    Its backbone has no pre-trained weights of its own, which would be downloaded only to be overwritten.
    """
    if OmegaConf.select(config, "model.backbone.weights") is None:
        return config
    config = copy.deepcopy(config)
    config.model.backbone.weights = None
    return config


def load_trained(model: Any, stored: Mapping[str, Any], source: str, *, prefer_ema: bool = True) -> LoadReport:
    """Copy the weights of a checkpoint's content into a model that is to detect with them.

    Args:
        model: the model.
        stored: what the checkpoint file holds.
        source: its name, for messages.
        prefer_ema: take the running mean of the weights where the checkpoint has one.

    Raises:
        CheckpointError: when it is not of this model, or lacks something that evaluation needs.
    """
    try:
        report = load_checkpoint(model, stored, prefer_ema=prefer_ema)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    report.require_complete(source)
    return report
