"""The training recipe of the real-time detectors works with other detectors."""

import torch

from detrex_lite.config import LazyConfig, get_config
from detrex_lite.data import generate_shapes
from detrex_lite.engine import train
from detrex_lite.metrics_file import read_metrics


def test_a_small_dino_trains_with_mosaic_mixup_and_multi_scale(tmp_path):
    generate_shapes(tmp_path / "shapes", num_train=8, num_val=2)
    cfg = LazyConfig.load("projects/dino/configs/dino_small_shapes.py")
    data = get_config("common/data/coco_realtime_mosaic.py").dataloader
    data.train.dataset, data.test.dataset = cfg.dataloader.train.dataset, cfg.dataloader.test.dataset
    recipe = get_config("common/realtime.py")
    cfg.dataloader, cfg.train, cfg.optimizer = data, recipe.train, recipe.optimizer
    cfg.lr_multiplier = get_config("common/schedule.py").lr_multiplier_flat_cosine
    overrides = [
        f"dataset.root={tmp_path}/shapes",
        "dataloader.image_size=64",
        "dataloader.strong_epochs=[0,2]",
        "dataloader.train.mapper.augmentation.mosaic.transform.size=48",
        "dataloader.train.mapper.augmentation.mosaic.probability=1.0",
        "dataloader.train.mixup.probability=1.0",
        "dataloader.train.total_batch_size=4",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "model.num_queries=10",
        "model.postprocessor.num_detections=10",
        "optimizer.params.weight_decays={'bias$': 0.0}",
        "train.max_epochs=3",
        "train.log_period=1",
        "train.device=cpu",
        "train.model_ema.restart.epoch=2",
        f"train.output_dir={tmp_path}/run",
    ]
    results = train(LazyConfig.apply_overrides(cfg, overrides))
    assert "AP" in results["bbox"]
    losses = [record["total_loss"] for record in read_metrics(tmp_path / "run/metrics.jsonl") if "total_loss" in record]
    assert len(losses) == 6
    log = (tmp_path / "run/log.txt").read_text()
    assert "the weights go back to those of" in log
    assert "The weight decay 0 of 'bias$' is for" in log
    groups = torch.load(tmp_path / "run/model_final.pth", weights_only=True)["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0]
