"""A published checkpoint: its address, its config, and the results that its authors published."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig

from ..checkpoint import CheckpointError
from ..config import LazyConfig, get_config
from ..inference.predictor import without_pretrained_backbone

NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]*")
SHA256 = re.compile(r"|[0-9a-f]{8,64}")


class ZooError(CheckpointError):
    """A table of checkpoints has a fault, or a requested checkpoint does not exist or is not available."""


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """A published checkpoint.

    Attributes:
        name: the unique name of the entry.
        config: a config file, relative to the folder of the table: of a training run, or of a model only, which is
            evaluated on `configs/common/data/coco_detr.py`.
        overrides: overrides of that config, as on the command line.
        url: address of the file; "" when it must be downloaded by hand.
        page: web page where the file is downloaded by hand.
        format: format of the parameter names: the name of a map in `detrex_lite.checkpoint.KEY_MAPS`.
        sha256: SHA-256 of the file in hexadecimal digits, or a prefix of it; "" when its authors publish none.
        num_classes: number of classes of the training data, as the data set numbers them.
        epochs: number of training epochs; None when not published.
        box_ap: box AP on COCO val2017 in percent, as published; None when not published.
        trained_by: who trained it, and who converted it.
        licence: licence of the file, by its authors.
        source: the page with this information.
        notes: further remarks.
        folder: folder of the table; set when the table is read.

    Raises:
        ZooError: for an invalid value.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    url: str = ""
    page: str = ""
    format: str
    sha256: str = ""
    num_classes: int
    epochs: int | None
    box_ap: float | None
    trained_by: str
    licence: str
    source: str
    notes: str = ""
    folder: Path = Path()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ZooError(f"name={self.name!r}: names consist of lower-case letters, digits and _ . + -")
        if bool(self.url) == bool(self.page):
            raise ZooError(f"{self.name}: give either the url of the file or the page to download it from by hand")
        for address in filter(None, (self.url, self.page)):
            if urlsplit(address).scheme not in ("http", "https"):
                raise ZooError(f"{self.name}: {address!r} is not an http or https address")
        if not SHA256.fullmatch(self.sha256):
            raise ZooError(f"{self.name}: sha256={self.sha256!r} must be 8 to 64 lower-case hexadecimal digits")
        if isinstance(self.overrides, str):
            raise ZooError(f"{self.name}: overrides={self.overrides!r} must be a tuple of strings")

    @property
    def project(self) -> str:
        """The name of the table's folder."""
        return self.folder.name

    @property
    def config_file(self) -> Path:
        """The path of the config."""
        return self.folder / self.config

    @property
    def file_name(self) -> str:
        """The name of the file in the cache: the name of the entry, with the suffix of the file's format."""
        suffix = Path(urlsplit(self.url).path).suffix if self.url else ""
        return f"{self.name}{suffix or '.pth'}"

    def load_config(self, overrides: Sequence[str] = ()) -> DictConfig:
        """Load the config of the entry, with its overrides and further ones.

        Pre-trained weights of the backbone are disabled, because the checkpoint contains the whole model.

        Raises:
            ConfigError: when there is no such config, or an override does not fit.
        """
        cfg = LazyConfig.load(self.config_file)
        for section, shipped in (("dataloader", "common/data/coco_detr.py"), ("train", "common/train.py")):
            if section not in cfg:
                cfg[section] = get_config(shipped)[section]
        return LazyConfig.apply_overrides(without_pretrained_backbone(cfg), [*self.overrides, *overrides])

    def describe(self) -> str:
        """Describe the entry, with a line for each attribute that has a value."""
        rows: list[tuple[str, Any]] = [("name", self.name), ("project", self.project)]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "config":
                value = self.config_file
            if field.name not in ("name", "folder") and value not in ("", None, ()):
                rows.append((field.name, " ".join(value) if field.name == "overrides" else value))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Attributes shared by the checkpoints of one publisher, so that a table has one line per checkpoint.

    `origin(name, config, epochs, box_ap, file)` creates an entry; further attributes of `ZooEntry` are given by name.

    Attributes:
        base: prefix of the address before `file`; without `file`, the entry is downloaded by hand from its `page`.
        format, licence, num_classes, source, trained_by, page, notes: see `ZooEntry`.
    """

    base: str = ""
    format: str
    licence: str
    num_classes: int
    source: str
    trained_by: str
    page: str = ""
    notes: str = ""

    def __call__(
        self, name: str, config: str, epochs: int | None, box_ap: float | None, file: str = "", **more: Any
    ) -> ZooEntry:
        """Create an entry.

        Args:
            name: of the entry.
            config: below `configs/`, without its suffix.
            epochs: number of training epochs; None when not published.
            box_ap: box AP as published; None when not published.
            file: the rest of the address after `base`; "" when the file is downloaded by hand.
            more: other attributes, which override those of the origin.
        """
        shared = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "base"}
        if file:
            shared["page"] = ""
        url = f"{self.base}{file}" if file else ""
        values = {**shared, "config": f"configs/{config}.py", "url": url, **more}
        return ZooEntry(name=name, epochs=epochs, box_ap=box_ap, **values)


def detrex(source: str, *, converted: bool = False) -> Origin:
    """Return the origin of detrex's checkpoints.

    Args:
        source: the page.
        converted: whether the paper's authors trained them, and detrex only changed the parameter names.
    """
    return Origin(
        base="https://github.com/IDEA-Research/detrex-storage/releases/download/",
        format="detrex",
        licence="Apache-2.0",
        num_classes=80,
        source=source,
        trained_by="the paper's authors; converted by detrex" if converted else "detrex",
    )


def transformers(source: str, trained_by: str) -> Origin:
    """Return the origin of checkpoints on the Hugging Face hub for transformers, without epochs and AP."""
    return Origin(
        base="https://huggingface.co/",
        format="transformers",
        licence="Apache-2.0",
        num_classes=91,
        source=source,
        trained_by=trained_by,
    )
