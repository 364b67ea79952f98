"""Your own images with Pascal VOC annotations (one XML file per image), and DETR's augmentation.

Fill in `dataset`, in a config (`dataset.images = "..."`) or on the command line (`dataset.images=...`).
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.data import load_voc

from .coco_detr import dataloader

dataset = {
    "annotations": "???",  # the folder of XML files
    "images": "???",  # the folder of images
    "train_split": "???",  # a text file with the names of the training images, one per line, without extension
    "val_split": "???",
    "class_names": None,  # None: all names in the XML files, sorted
}

dataloader.train.dataset = L(load_voc)(
    annotation_dir="${dataset.annotations}",
    image_dir="${dataset.images}",
    split_file="${dataset.train_split}",
    class_names="${dataset.class_names}",
)
dataloader.test.dataset = L(load_voc)(
    annotation_dir="${dataset.annotations}",
    image_dir="${dataset.images}",
    split_file="${dataset.val_split}",
    class_names="${dataset.class_names}",
)
