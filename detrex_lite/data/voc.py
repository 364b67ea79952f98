"""Reads folders of Pascal VOC annotations: one XML file per image (Everingham et al., IJCV 2010)."""

import codecs
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from ..errors import did_you_mean
from .dataset import DetectionDataset
from .faults import MAX_SIDE, DatasetError, FaultLog, check_class_names, integer, name_of
from .image import IMAGE_EXTENSIONS, read_image_size
from .packing import AnnotationTable, pack

# Values of <difficult> that labelling tools write.
_DIFFICULT = {"": False, "0": False, "false": False, "unspecified": False, "1": True, "true": True}


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
    """Load a data set from VOC XML files. Files are read once per process; later calls return the same object.

    Image ids are positions in the split, annotation ids positions among all objects, and category ids positions
    in `class_names`; all count from 1. The image of `x.xml` is the file `x` with any image extension, or else the
    file that `<filename>` names.

    Args:
        annotation_dir: the folder of XML files.
        image_dir: the folder of images.
        split_file: a text file in UTF-8 or UTF-16 that has the name of an XML file without its extension in each
            line. None reads every XML file of the folder, sorted by name.
        class_names: the classes in order. None takes the sorted classes of all files in `annotation_dir`, so that
            all splits of one folder agree.
        name: name of the data set in messages; by default the name of the split file or of the folder.
        one_based: coordinates count from 1 and include the last pixel, as in the official VOC files, so 1 is
            subtracted from xmin and ymin. Otherwise coordinates are used unchanged.
        use_difficult: treat objects marked as difficult like all others. Otherwise they are left out of training
            and ignored in evaluation, like crowds.

    Raises:
        DatasetError: when a file or folder is missing or an entry is malformed; the message names the file and the
            object.
    """
    folder = Path(os.path.expanduser(annotation_dir))
    split = None if split_file is None else str(Path(os.path.expanduser(split_file)))
    stamp = (_stamp(folder), os.path.getmtime(split) if split and os.path.isfile(split) else 0)
    return _load_voc(
        str(folder),
        str(Path(os.path.expanduser(image_dir))),
        split,
        check_class_names(class_names),
        name,
        one_based,
        use_difficult,
        stamp,
    )


def _stamp(folder: Path) -> tuple[int, int]:
    """Return a value that changes when a file of the folder is added, removed or written."""
    if not folder.is_dir():
        return 0, 0
    times = [_modification_time(entry.path) for entry in os.scandir(folder)]
    return len(times), max(times, default=0)


def _modification_time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:  # a broken link
        return 0


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
    # `stamp` is only part of the cache key, so that changed files are read again.
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
    """Read VOC files without the cache. Faults go to `log`; folders that cannot be read raise `DatasetError`."""
    if not os.path.isdir(annotation_dir):
        raise DatasetError(f"annotation folder {annotation_dir} does not exist")
    files = _xml_files(annotation_dir, log)
    chosen = files if split_file is None else _split(split_file, annotation_dir, files, log)
    if class_names is None:
        class_names = class_names_of(files.values())
    if not os.path.isdir(image_dir):
        log.error("image folder missing", annotation_dir, f"its image folder {image_dir} does not exist")
    images = _ImageFinder(image_dir)

    labels: list[str] = []
    table = AnnotationTable(lambda row: labels[row])
    reader = _XmlReader(table, labels, class_names, one_based=one_based, use_difficult=use_difficult, log=log)
    for stem, path in chosen.items():
        reader.read(path, stem, images)
    if not class_names:
        log.error("no categories", annotation_dir, "its XML files have no object with a name")
    return pack(
        table,
        name=name or Path(split_file or annotation_dir).stem,
        where=split_file or annotation_dir,
        class_names=class_names,
        category_ids=range(1, len(class_names) + 1),
        image_root=image_dir,
        has_annotations=True,
        log=log,
    )


def _xml_files(folder: str, log: FaultLog) -> dict[str, str]:
    """Return stem -> path of the XML files of a folder, sorted by stem."""
    files: dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        stem, extension = os.path.splitext(name)
        path = os.path.join(folder, name)
        if extension.lower() != ".xml":
            continue
        if stem in files:
            log.error("duplicate file", path, f"it has the same name as {files[stem]}: remove one of the two")
        files[stem] = path
    if not files:
        raise DatasetError(f"annotation folder {folder} has no .xml file")
    return dict(sorted(files.items()))


def split_lines(split_file: str) -> list[str]:
    """Return the lines of a text file in UTF-8 or UTF-16.

    Raises:
        DatasetError: when the file does not exist or is not text.
    """
    try:
        content = Path(split_file).read_bytes()
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if is_utf16 else "utf-8-sig").splitlines()
    except FileNotFoundError:
        near = [str(file) for file in Path(split_file).parent.glob("*.txt")]
        raise DatasetError(f"split file {split_file} does not exist{did_you_mean(split_file, near)}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"split file {split_file} cannot be read (is it text in UTF-8?): {error}") from error


def _split(split_file: str, folder: str, files: dict[str, str], log: FaultLog) -> dict[str, str]:
    """Return stem -> path of the XML files that a split lists, in the order of the list."""
    chosen: dict[str, str] = {}
    for number, line in enumerate(split_lines(split_file), 1):
        stem, where = line.strip(), f"{split_file}: line {number}"
        path = files.get(stem) or os.path.join(folder, f"{stem}.xml")
        if stem in chosen:
            log.error("duplicate id", where, f"{stem!r} is listed twice")
        elif stem and (stem in files or os.path.isfile(path)):
            chosen[stem] = path
        elif stem:
            kind, message = _fault_of_line(stem, path, files)
            log.error(kind, where, message)
    return chosen


def _fault_of_line(line: str, path: str, files: dict[str, str]) -> tuple[str, str]:
    """Return the kind and the message of the fault for a line of a split that does not name an XML file."""
    rule = "a line is the name of an XML file without its extension, and nothing else"
    if line.split()[0] in files:
        return "malformed line", f"{line!r} has more than a name (the lists of one class have flags): {rule}"
    if os.path.splitext(os.path.basename(line))[0] in files:
        return "malformed line", f"{line!r} has an extension or a folder: {rule}"
    return "missing file", f"{path!r} does not exist: {rule}"


def root_of(path: str) -> ElementTree.Element:
    """Return the root element of an XML file.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is not XML, its encoding is not supported, or its elements are in a namespace.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"it is not valid XML: {error}") from error
    except (LookupError, ValueError) as error:  # an unknown or multi-byte encoding such as GBK
        raise ValueError(f"its encoding cannot be read, store it as UTF-8: {error}") from error
    for element in root.iter():
        namespace, bracket, tag = element.tag.rpartition("}")
        if bracket:
            raise ValueError(f"its element <{tag}> is in the namespace {namespace[1:]!r}: VOC files have no namespace")
    return root


def class_names_of(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the sorted class names of all objects; skips files and names that cannot be read (readers report them)."""
    names: set[str] = set()
    for path in paths:
        try:
            names.update(_text(element, "name") for element in root_of(path).findall("object"))
        except (OSError, ValueError):
            continue
    return tuple(sorted(name for name in names if _is_name(name)))


def _is_name(text: str) -> bool:
    try:
        return bool(name_of(text, "name"))
    except ValueError:
        return False


def _text(element: ElementTree.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


class _ImageFinder:
    """Finds the image files of a folder by stem, from one listing of the folder."""

    def __init__(self, folder: str):
        self.folder = folder
        self._by_stem: dict[str, list[str]] = {}
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            stem, extension = os.path.splitext(name)
            if extension.lower() in IMAGE_EXTENSIONS:
                self._by_stem.setdefault(stem, []).append(name)

    def find(self, stem: str, named: str) -> str:
        """Return the image that has the XML file's stem or that it names; a missing file's name if neither exists."""
        candidates = self._by_stem.get(stem, [])
        if named in candidates:
            return named
        if candidates:
            return candidates[0]
        return named or f"{stem}.jpg"


class _XmlReader:
    """Reads XML files one after the other into a table."""

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
        self._images: dict[str, str] = {}

    def read(self, path: str, stem: str, images: _ImageFinder) -> None:
        try:
            root = root_of(path)
        except FileNotFoundError:
            self.log.error("missing file", path, "this annotation file is a link to a file that does not exist")
            return
        except (OSError, ValueError) as error:
            self.log.error("malformed file", path, str(error))
            return
        try:
            file_name = name_of(images.find(stem, os.path.basename(_text(root, "filename"))), "filename")
            size = self._size(root, os.path.join(images.folder, file_name))
        except ValueError as error:
            self.log.error("malformed entry", path, str(error))
            return
        if file_name in self._images:
            message = (
                f"its image {file_name} is also that of {self._images[file_name]}, so that objects of one file count "
                "as missing in the other"
            )
            self.log.error("duplicate file", path, message)
        self._images[file_name] = path
        owner = len(self.table.file_names)
        self.table.add_image(file_name, owner + 1, size)
        for number, element in enumerate(root.findall("object"), 1):
            self._objects += 1
            image = os.path.join(images.folder, file_name)
            self._read_object(element, owner, image, f"{path}: object {number}")

    @staticmethod
    def _size(root: ElementTree.Element, image_path: str) -> tuple[int, int]:
        """Return the annotated (height, width), or that of the image where the annotation is missing or 0."""
        sides = []
        for tag in ("height", "width"):
            text = root.findtext(f"size/{tag}") or "0"
            try:
                number = float(text)
            except ValueError:
                raise ValueError(f"<{tag}> must be a number, got {text!r}") from None
            sides.append(integer(number, tag, low=0, high=MAX_SIDE))
        return (sides[0], sides[1]) if all(sides) else read_image_size(image_path)

    def _read_object(self, element: ElementTree.Element, owner: int, image: str, where: str) -> None:
        try:
            name = name_of(_text(element, "name"), "name")
        except ValueError as error:
            self.log.error("malformed entry", where, str(error), image=image)
            return
        if name not in self.classes:
            message = f"its class {name!r} is not among the classes{did_you_mean(name, self.classes)}"
            self.log.error("unknown category", where, message, image=image)
            return
        texts = [element.findtext(f"bndbox/{tag}") for tag in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x0, y0, x1, y1 = (float(text) for text in texts if text is not None)
        except ValueError:
            message = f"<bndbox> needs the numbers xmin, ymin, xmax and ymax, got {texts}"
            self.log.error("malformed entry", where, message, image=image)
            return
        difficult = _DIFFICULT.get(_text(element, "difficult").lower())
        if difficult is None:
            message = f"<difficult> must be 0 or 1, got {_text(element, 'difficult')!r}"
            self.log.error("malformed entry", where, message, image=image)
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
