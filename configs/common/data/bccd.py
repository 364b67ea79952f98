"""Photographs of blood cells (github.com/Shenggan/BCCD_Dataset) at half size, from COCO JSON; set `dataset.root`."""

from .custom_coco import dataloader

dataset = {"root": "???"}  # holds images/, train.json and val.json
for _split in ("train", "val"):
    dataset[f"{_split}_images"] = "${dataset.root}/images"
    dataset[f"{_split}_annotations"] = f"${{dataset.root}}/{_split}.json"

dataloader.train.mapper.augmentation.update(short_edge_lengths=[208, 224, 240, 256], crop_probability=0.0)
dataloader.test.mapper.augmentation.update(short_edge_length=240)
dataloader.train.update(total_batch_size=8, num_workers=1)
dataloader.test.update(batch_size=8, num_workers=1)
