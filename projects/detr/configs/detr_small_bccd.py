"""The small DETR on photographs of blood cells (github.com/Shenggan/BCCD_Dataset) at half size, from COCO JSON.

python tools/train_net.py --config-file projects/detr/configs/detr_small_bccd.py dataset.root=FOLDER
"""

from detrex_lite.config import get_config

from .detr_small_shapes import lr_multiplier, model, optimizer, train

dataset = get_config("common/data/custom_coco.py").dataset
dataset.root = "???"  # holds images/, train.json and val.json
for _split in ("train", "val"):
    dataset[f"{_split}_images"] = "${dataset.root}/images"
    dataset[f"{_split}_annotations"] = f"${{dataset.root}}/{_split}.json"
dataloader = get_config("common/data/custom_coco.py").dataloader
dataloader.train.mapper.augmentation.update(short_edge_lengths=[208, 224, 240, 256], crop_probability=0.0)
dataloader.test.mapper.augmentation.update(short_edge_length=240)
dataloader.train.update(total_batch_size=8, num_workers=1)
dataloader.test.update(batch_size=8, num_workers=1)

# Photographs have more pixels than the shapes that this model was made for: stride 16 does.
model.backbone.out_features = ["res4"]
model.in_feature = "res4"
model.in_channels = 256
train.max_iter = 900
train.eval_period = 300
train.output_dir = "output/detr_small_bccd"
