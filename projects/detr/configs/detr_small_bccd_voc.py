"""Like detr_small_bccd.py, but from the Pascal VOC folders in which the photographs are published.

detrex-lite train projects/detr/configs/detr_small_bccd_voc.py dataset.root=BCCD_Dataset/BCCD
"""

from detrex_lite.config import get_config

from .detr_small_bccd import dataloader, lr_multiplier, model, optimizer, train

_voc = get_config("common/data/custom_voc.py")
dataset = _voc.dataset
dataset.root = "???"  # holds Annotations/, JPEGImages/ and ImageSets/Main/
dataset.update(annotations="${dataset.root}/Annotations", images="${dataset.root}/JPEGImages")
for _split in ("train", "val"):
    dataset[f"{_split}_split"] = f"${{dataset.root}}/ImageSets/Main/{_split}.txt"
dataloader.train.dataset = _voc.dataloader.train.dataset
dataloader.test.dataset = _voc.dataloader.test.dataset

train.output_dir = "output/detr_small_bccd_voc"
