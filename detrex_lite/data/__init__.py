"""Data sets, augmentations and loaders."""

from .batches import Mixup, MultiScale, scales_around
from .catalog import load_dataset, register_dataset
from .coco import load_coco
from .conversion import Conversion, convert_dataset
from .dataset import DetectionDataset, images_with_objects, subset
from .detectron2_catalog import load_detectron2_dataset, register_detectron2_dataset
from .faults import DatasetError
from .folder import load_folder
from .image import decode_image, list_images, read_image, read_image_size
from .layouts import FoundDataset, find_dataset, load_split
from .loaders import build_test_loader, build_train_loader, dataset_of, epoch_length, mapped_sample
from .mapper import DetrDatasetMapper, record_masks, record_run_lengths
from .object_masks import ObjectMasks
from .packing import from_records
from .panoptic import load_coco_panoptic
from .photometric import RandomPhotometricDistort
from .realtime import (
    InEpochs,
    Mosaic,
    RandomIoUCrop,
    RealtimeAugmentation,
    realtime_test_augmentation,
    square_train_augmentation,
)
from .samplers import TrainBatchSampler
from .segmentations import PanopticSegments
from .shapes import generate_shapes, load_shapes, load_shapes_panoptic
from .transforms import (
    PadToSize,
    RandomSizeCrop,
    ResizeShortestEdge,
    detr_test_augmentation,
    detr_train_augmentation,
    lsj_train_augmentation,
    shortest_edge_size,
)
from .voc import load_voc

__all__ = [
    "Conversion",
    "DatasetError",
    "DetectionDataset",
    "DetrDatasetMapper",
    "FoundDataset",
    "InEpochs",
    "Mixup",
    "Mosaic",
    "MultiScale",
    "ObjectMasks",
    "PadToSize",
    "PanopticSegments",
    "RandomIoUCrop",
    "RandomPhotometricDistort",
    "RandomSizeCrop",
    "RealtimeAugmentation",
    "ResizeShortestEdge",
    "TrainBatchSampler",
    "build_test_loader",
    "build_train_loader",
    "convert_dataset",
    "dataset_of",
    "decode_image",
    "detr_test_augmentation",
    "detr_train_augmentation",
    "epoch_length",
    "find_dataset",
    "from_records",
    "generate_shapes",
    "images_with_objects",
    "list_images",
    "load_coco",
    "load_coco_panoptic",
    "load_dataset",
    "load_detectron2_dataset",
    "load_folder",
    "load_shapes",
    "load_shapes_panoptic",
    "load_split",
    "load_voc",
    "lsj_train_augmentation",
    "mapped_sample",
    "read_image",
    "read_image_size",
    "realtime_test_augmentation",
    "record_masks",
    "record_run_lengths",
    "register_dataset",
    "register_detectron2_dataset",
    "scales_around",
    "shortest_edge_size",
    "square_train_augmentation",
    "subset",
]
