"""Detectors of a few layers on drawn shapes, in float64, trained by one process or shared by two.

In float64, since AdamW divides gradients by their size: where one is zero but for rounding, rounding decides the step.
"""

import contextlib
import functools
import json
import shutil
from unittest import mock

import torch
from omegaconf import OmegaConf
from torch._dynamo.testing import CompileCounter

from detrex_lite import distributed
from detrex_lite.config import LazyConfig, get_config
from detrex_lite.engine import train
from detrex_lite.engine.processes import sharding

from .tiny import tiny_config

STEPS = 4
BACKBONE = {
    "num_classes": 3,
    "num_queries": 6,
    "embed_dim": 64,
    "backbone.depth": 18,
    "backbone.norm": "FrozenBN",  # statistics of a batch are other ones when it is shared out
    "transformer.encoder.num_layers": 1,
    "transformer.encoder.layer.attn.num_heads": 2,
    "transformer.encoder.layer.ffn.feedforward_dim": 48,
    "transformer.decoder.num_layers": 2,
    "position_embedding.num_pos_feats": 32,
}
DETR = {**BACKBONE}
DINO = {
    **BACKBONE,
    "backbone.out_features": ["res2", "res3"],
    "neck.in_channels": {"res2": 64, "res3": 128},
    "transformer.num_feature_levels": 3,
    "postprocessor.num_detections": 10,
    # Noise is drawn by each process for its own images. Padding in place of denoising queries is attended to, and how
    # much of it there is depends on the other images of the batch.
    "denoising.num_pairs": 4,
    "denoising.label_noise_prob": 0.0,
    "denoising.box_noise_scale": 0.0,
    "denoising.padding_in_loss": False,
    "denoising.mask_padding": True,
}
MODELS = {
    "detr": ("projects/detr/configs/models/detr_small.py", DETR),
    "dino": ("projects/dino/configs/models/dino_r50.py", DINO),
}
# A cross-entropy that is averaged over queries weighs objects by how many its process has: one each, in "even".
DATA = {"detr": "even", "dino": "uneven"}


def config(folder, name, *overrides, model="detr"):
    """Of a run in `folder / name` on the shapes in `folder`."""
    path, changes = MODELS[model]
    cfg = tiny_config(folder / name)
    cfg.model = get_config(path).model
    for key, value in changes.items():
        OmegaConf.update(cfg, f"model.{key}", value, merge=False)
    data = get_config("common/data/shapes.py")
    cfg.dataset, cfg.dataloader = data.dataset, data.dataloader
    cfg.dataset.root = str(folder / DATA[model])
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 0
    cfg.dataloader.train.total_batch_size = 4
    cfg.dataloader.test.batch_size = 2
    cfg.optimizer.lr = 1e-3
    cfg.optimizer.weight_decay = 0.05
    cfg.train.max_iter = STEPS
    cfg.train.clip_grad.enabled = True
    cfg.train.model_ema.enabled = True
    cfg.train.model_ema.warmup = 0
    cfg.train.model_ema.decay = 0.5
    return LazyConfig.apply_overrides(cfg, overrides)


@contextlib.contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def run(folder, name, *overrides, model="detr", resume=False):
    with float64():
        return train(config(folder, name, *overrides, model=model), resume=resume)


def interrupt(folder, name, copy):
    """A copy of a finished run as it was after its second step."""
    shutil.copytree(folder / name, folder / copy)
    (folder / copy / "model_final.pth").unlink()
    (folder / copy / "model_best.pth").unlink()
    (folder / copy / "last_checkpoint").write_text("model_0000002.pth")


@contextlib.contextmanager
def traced():
    """Inside, torch.compile makes graphs, which are counted, and runs them as they are: that takes no C++ compiler."""
    graphs = CompileCounter()
    with mock.patch.object(torch, "compile", functools.partial(torch.compile, backend=graphs)):
        yield graphs


def compiled_in_two_processes(folder):
    with traced():
        run(folder, "dino_by_two", "train.compile=True", "train.static_graph=True", model="dino")


def in_two_processes(folder):
    """Everything that needs two processes, in one start of them."""
    results = {}
    results["detr"] = run(folder, "detr_by_two", "train.static_graph=True")
    results["dino"] = run(folder, "dino_by_two", model="dino")
    run(folder, "dino_goes_on_by_two", model="dino", resume=True)
    run(folder, "accumulated_by_two", "train.accumulate_steps=2", "dataloader.train.total_batch_size=2")
    sharding.UNIT_PARAMETERS = 100_000  # the larger blocks of a ResNet-18
    run(folder, "dino_sharded", "train.fsdp=True", model="dino")
    run(folder, "dino_goes_on_sharded", "train.fsdp=True", model="dino", resume=True)
    run(
        folder,
        "accumulated_sharded",
        "train.fsdp=True",
        "train.accumulate_steps=2",
        "dataloader.train.total_batch_size=2",
    )
    (folder / f"results_{distributed.rank()}.json").write_text(json.dumps(results))
