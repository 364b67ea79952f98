"""COCO 2017 with DETR's augmentation. DETREX_DATASETS names the folder that holds coco/."""

from omegaconf import OmegaConf

from detrex_lite.config import LazyCall as L
from detrex_lite.data import (
    DetrDatasetMapper,
    build_test_loader,
    build_train_loader,
    detr_test_augmentation,
    detr_train_augmentation,
    load_dataset,
)
from detrex_lite.evaluation import CocoEvaluator

dataloader = OmegaConf.create()  # a config node from the start, because files that import it set its attributes
dataloader.train = L(build_train_loader)(
    dataset=L(load_dataset)(name="coco_2017_train"),
    mapper=L(DetrDatasetMapper)(augmentation=L(detr_train_augmentation)(), is_train=True),
    total_batch_size=16,  # over all processes
    num_workers=4,  # per process
    seed="${train.seed}",
)
dataloader.test = L(build_test_loader)(
    dataset=L(load_dataset)(name="coco_2017_val"),
    mapper=L(DetrDatasetMapper)(augmentation=L(detr_test_augmentation)(), is_train=False),
    batch_size=1,
    num_workers=4,
)
dataloader.evaluator = L(CocoEvaluator)(dataset="${..test.dataset}", output_dir="${train.output_dir}/evaluation")
