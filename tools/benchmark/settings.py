"""The settings of measurements. This module does not import torch, so that `--help` is quick."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .errors import require_known, require_positive

MODES = ("inference", "train")
PRECISIONS = ("float32", "bf16")  # of autocast
RUNTIMES = ("onnx", "openvino")
FILE_PRECISIONS = ("fp32", "fp16", "int8")  # of exported files
OTHERS = ("transformers",)  # implementations to compare with


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The settings of a model benchmark.

    Attributes:
        height, width, batch: sizes in inference: pixels, number of images.
        train_height, train_width, train_batch: the same in training steps.
        modes: names of `MODES`.
        precisions: names of `PRECISIONS`.
        compile: also measure models after torch.compile.
        repeats: number of rounds, in each of which every side runs once.
        warmup: number of runs of each side before the first round.
        against: another implementation, one of `OTHERS`; None to compare with none.
        seed: seed of weights, images and objects.

    Raises:
        BenchmarkError: for an unknown mode, precision or implementation, or a size below 1.
    """

    height: int = 800
    width: int = 1066
    batch: int = 1
    train_height: int = 480
    train_width: int = 640
    train_batch: int = 2
    modes: Sequence[str] = MODES
    precisions: Sequence[str] = ("float32",)
    compile: bool = False
    repeats: int = 10
    warmup: int = 3
    against: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_known("mode", self.modes, MODES)
        require_known("precision", self.precisions, PRECISIONS)
        if self.against is not None:
            require_known("implementation to compare with", [self.against], OTHERS)
        sizes = ("height", "width", "batch", "train_height", "train_width", "train_batch", "repeats", "warmup")
        require_positive(**{name: getattr(self, name) for name in sizes})

    def size_of(self, mode: str) -> tuple[int, int, int]:
        """The batch size, height and width in a mode."""
        if mode == "train":
            return self.train_batch, self.train_height, self.train_width
        return self.batch, self.height, self.width


@dataclass(frozen=True, kw_only=True)
class DeploySettings:
    """The settings of a deployment benchmark.

    Attributes:
        height, width: size of the image in pixels.
        formats: names of `RUNTIMES`.
        precisions: precisions of exported files, names of `FILE_PRECISIONS`.
        compile: also measure models after torch.compile, including the other implementation's.
        repeats: number of rounds, in each of which every side runs once.
        warmup: number of runs of each side before the first round.
        against: another implementation, one of `OTHERS`; None to compare with none.

    Raises:
        BenchmarkError: for an unknown format, precision or implementation, or a size below 1.
    """

    height: int = 640
    width: int = 640
    formats: Sequence[str] = RUNTIMES
    precisions: Sequence[str] = FILE_PRECISIONS
    compile: bool = True
    repeats: int = 20
    warmup: int = 3
    against: str | None = "transformers"

    def __post_init__(self) -> None:
        require_known("format", self.formats, RUNTIMES)
        require_known("precision", self.precisions, FILE_PRECISIONS)
        if self.against is not None:
            require_known("implementation to compare with", [self.against], OTHERS)
        require_positive(height=self.height, width=self.width, repeats=self.repeats, warmup=self.warmup)


@dataclass(frozen=True, kw_only=True)
class MatchingSettings:
    """The sizes of the matching problem.

    Attributes:
        sets: number of sets of predictions: six decoder layers and the encoder's proposals.
        queries, images, classes: numbers in each set.
        objects: number of objects in each image.
        repeats: number of rounds.
    """

    sets: int = 7
    queries: int = 900
    images: int = 2
    objects: int = 7
    classes: int = 80
    repeats: int = 20

    def __post_init__(self) -> None:
        require_positive(**asdict(self))


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """The sizes of the compared losses.

    Attributes:
        sets: number of sets of predictions: one before the layers, nine of layers, and the encoder's proposals.
        queries, images: numbers in each set.
        objects: number of objects in each image.
        cells: side of the masks in cells, which have a stride of 4 pixels.
        channels: dimension of mask embeddings.
        points: number of sampled points of each mask.
        repeats: number of rounds.
    """

    sets: int = 11
    queries: int = 300
    images: int = 2
    objects: int = 100
    cells: int = 256
    channels: int = 256
    points: int = 12544
    repeats: int = 3

    def __post_init__(self) -> None:
        require_positive(**asdict(self))
