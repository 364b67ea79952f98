"""Images without annotations."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from .dataset import DetectionDataset
from .image import list_images, read_image_size
from .packing import from_records


def load_folder(
    paths: str | Path | Sequence[str | Path], class_names: Sequence[str], name: str | None = None
) -> DetectionDataset:
    """Create a data set of images without annotations, for predictions.

    Args:
        paths: a folder, a file, a glob pattern, or a list of these.
        class_names: the classes of the model that will predict.
        name: name of the data set in messages; None for the folder's name, or `images`.

    Raises:
        DatasetError: when there are no images, or one cannot be opened.
    """
    if name is None:
        name = Path(paths).name if isinstance(paths, str | Path) and Path(paths).is_dir() else "images"
    return _load_folder(tuple(list_images(paths)), tuple(class_names), name)


@lru_cache(maxsize=8)
def _load_folder(files: tuple[str, ...], class_names: tuple[str, ...], name: str) -> DetectionDataset:
    records = []
    for file in files:
        height, width = read_image_size(file)
        records.append({"file_name": file, "height": height, "width": width})
    return from_records(records, name=name, class_names=class_names)
