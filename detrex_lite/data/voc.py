"""Folders of Pascal VOC annotations: one XML file per image (Everingham et al., IJCV 2010)."""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ..errors import did_you_mean
from .dataset import DetectionDataset
from .faults import DatasetError, FaultLog, check_class_names
from .image import IMAGE_EXTENSIONS, read_image_size
from .packing import AnnotationTable, pack


def load_voc(
    annotation_dir: str | Path,
    image_dir: str | Path,
    split_file: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    *,
    name: str | None = None,
    one_based: bool = False,
    use_difficult: bool = False,
) -> DetectionDataset:
    """A data set from VOC XML files; read once per process, later calls return the same object.

    Image ids are positions in the split, annotation ids positions among all objects, category ids positions
    in `class_names`, all from 1. The image of `x.xml` is the file `x` with any image extension, or else the
    one that `<filename>` names.

    Args:
        annotation_dir: the folder of XML files.
        image_dir: the folder of images.
        split_file: a text file with one XML name a line, without the extension; every XML file, sorted, when
            None.
        class_names: the classes in order; when None, those of all files in `annotation_dir`, sorted, so that
            all splits of one folder agree.
        name: what messages call the data set; the split file's or the folder's name when None.
        one_based: coordinates count from 1 and include the last pixel, as in the official VOC files: 1 is
            taken off xmin and ymin. Otherwise coordinates are taken as they are.
        use_difficult: treat objects marked difficult as any other. Otherwise they are left out of training
            and ignored in evaluation, as crowds are.

    Raises:
        DatasetError: when a file or folder is missing or an entry is malformed; it names the file and the
            object.
    """
    folder = Path(annotation_dir).expanduser()
    split = None if split_file is None else str(Path(split_file).expanduser())
    stamp = (_stamp(folder), os.path.getmtime(split) if split and os.path.isfile(split) else 0)
    return _load_voc(
        str(folder),
        str(Path(image_dir).expanduser()),
        split,
        check_class_names(class_names),
        name,
        one_based,
        use_difficult,
        stamp,
    )


def _stamp(folder: Path) -> tuple[int, int]:
    """Changes when a file of the folder is added, removed or written."""
    if not folder.is_dir():
        return 0, 0
    times = [entry.stat().st_mtime_ns for entry in os.scandir(folder)]
    return len(times), max(times, default=0)


@lru_cache(maxsize=8)
def _load_voc(
    annotation_dir: str,
    image_dir: str,
    split_file: str | None,
    class_names: tuple[str, ...] | None,
    name: str | None,
    one_based: bool,
    use_difficult: bool,
    stamp: tuple,
) -> DetectionDataset:
    # `stamp` is part of the cache key only: files that changed are read again.
    return read_voc(
        annotation_dir,
        image_dir,
        split_file,
        class_names,
        name=name,
        one_based=one_based,
        use_difficult=use_difficult,
        log=FaultLog(),
    )


def read_voc(
    annotation_dir: str,
    image_dir: str,
    split_file: str | None = None,
    class_names: tuple[str, ...] | None = None,
    *,
    name: str | None = None,
    one_based: bool = False,
    use_difficult: bool = False,
    log: FaultLog,
) -> DetectionDataset:
    """Read without the cache; faults go to `log`, and what cannot be read at all raises `DatasetError`."""
    if not os.path.isdir(annotation_dir):
        raise DatasetError(f"annotation folder {annotation_dir} does not exist")
    stems = _stems(annotation_dir, split_file, log)
    if class_names is None:
        class_names = _class_names_of(annotation_dir)
    if not os.path.isdir(image_dir):
        log.error("image folder missing", annotation_dir, f"its image folder {image_dir} does not exist")
    images = _ImageFinder(image_dir)

    labels: list[str] = []
    table = AnnotationTable(lambda row: labels[row])
    reader = _XmlReader(table, labels, class_names, one_based=one_based, use_difficult=use_difficult, log=log)
    for stem in stems:
        reader.read(os.path.join(annotation_dir, f"{stem}.xml"), stem, images)
    if not class_names:
        log.error("no categories", annotation_dir, "there is not one named object in its XML files")
    return pack(
        table,
        name=name or Path(split_file or annotation_dir).stem,
        where=split_file or annotation_dir,
        class_names=class_names,
        category_ids=range(1, len(class_names) + 1),
        image_root=image_dir,
        log=log,
    )


def _stems(annotation_dir: str, split_file: str | None, log: FaultLog) -> list[str]:
    if split_file is None:
        return sorted(Path(entry).stem for entry in os.listdir(annotation_dir) if entry.endswith(".xml"))
    try:
        lines = Path(split_file).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        near = [str(other) for other in Path(split_file).parent.glob("*.txt")]
        raise DatasetError(f"split file {split_file} does not exist{did_you_mean(split_file, near)}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"split file {split_file} cannot be read: {error}") from error
    stems: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        stem = line.strip()
        if stem in stems:
            log.error("duplicate id", f"{split_file}: line {number}", f"{stem!r} is listed twice")
        elif stem:
            stems[stem] = None
    return list(stems)


def _class_names_of(annotation_dir: str) -> tuple[str, ...]:
    """Names of all objects of a folder, sorted; files that cannot be read are left to those who read them."""
    names: set[str] = set()
    for path in Path(annotation_dir).glob("*.xml"):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError, ValueError):
            continue
        names.update(_text(element, "name") for element in root.findall("object"))
    return tuple(sorted(names - {""}))


def _text(element: ElementTree.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


class _ImageFinder:
    """The image files of a folder by stem, from one listing."""

    def __init__(self, folder: str):
        self.folder = folder
        self._by_stem: dict[str, list[str]] = {}
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            stem, extension = os.path.splitext(name)
            if extension.lower() in IMAGE_EXTENSIONS:
                self._by_stem.setdefault(stem, []).append(name)

    def find(self, stem: str, named: str) -> str:
        """The file of the XML's stem, or the one it names; a name that does not exist when there is none."""
        candidates = self._by_stem.get(stem, [])
        if named in candidates:
            return named
        if candidates:
            return candidates[0]
        return named or f"{stem}.jpg"


class _XmlReader:
    """Reads one XML file after the other into a table."""

    def __init__(
        self,
        table: AnnotationTable,
        labels: list[str],
        class_names: tuple[str, ...],
        *,
        one_based: bool,
        use_difficult: bool,
        log: FaultLog,
    ):
        self.table = table
        self.labels = labels
        self.classes = {name: k for k, name in enumerate(class_names)}
        self.one_based = one_based
        self.use_difficult = use_difficult
        self.log = log
        self._objects = 0

    def read(self, path: str, stem: str, images: _ImageFinder) -> None:
        try:
            root = ElementTree.parse(path).getroot()
        except FileNotFoundError:
            self.log.error("missing file", path, "this annotation file does not exist")
            return
        except (ElementTree.ParseError, OSError, ValueError) as error:
            self.log.error("malformed file", path, f"it is not valid XML: {error}")
            return
        file_name = images.find(stem, os.path.basename(_text(root, "filename")))
        try:
            size = self._size(root, os.path.join(images.folder, file_name))
        except ValueError as error:
            self.log.error("malformed entry", path, str(error))
            return
        owner = len(self.table.file_names)
        self.table.add_image(file_name, owner + 1, size)
        for number, element in enumerate(root.findall("object"), 1):
            self._objects += 1
            self._read_object(element, owner, f"{path}: object {number}")

    @staticmethod
    def _size(root: ElementTree.Element, image_path: str) -> tuple[int, int]:
        """(height, width) as annotated; from the image where the annotation leaves it out or says 0."""
        texts = [root.findtext(f"size/{tag}") or "0" for tag in ("height", "width")]
        try:
            height, width = (int(float(text)) for text in texts)
        except ValueError:
            raise DatasetError(f"height and width must be numbers, got {texts[0]!r} and {texts[1]!r}") from None
        if height < 1 or width < 1:
            return read_image_size(image_path)
        return height, width

    def _read_object(self, element: ElementTree.Element, owner: int, where: str) -> None:
        name = _text(element, "name")
        if name not in self.classes:
            message = f"its class {name!r} is not among the classes{did_you_mean(name, self.classes)}"
            self.log.error("unknown category", where, message)
            return
        texts = [element.findtext(f"bndbox/{tag}") for tag in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x0, y0, x1, y1 = (float(text) for text in texts if text is not None)
            difficult = bool(int(_text(element, "difficult") or 0))
        except ValueError:
            message = f"<bndbox> needs the numbers xmin, ymin, xmax and ymax, got {texts}; <difficult> is 0 or 1"
            self.log.error("malformed entry", where, message)
            return
        shift = 1.0 if self.one_based else 0.0
        self.labels.append(f"{where} ({name})")
        self.table.add_box(
            owner,
            (x0 - shift, y0 - shift, x1, y1),
            class_index=self.classes[name],
            iscrowd=difficult and not self.use_difficult,
            area=float("nan"),
            annotation_id=self._objects,
        )
