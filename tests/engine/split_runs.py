"""Small detectors on generated shapes, in float64, trained by one process or by two.

float64 is needed because AdamW divides gradients by their size: rounding decides the step of gradients near zero.
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
SMALL = {
    "num_classes": 3,
    "num_queries": 6,
    "embed_dim": 64,
    "backbone.depth": 18,
    "backbone.norm": "FrozenBN",  # the statistics of a batch would change when it is split
    "transformer.encoder.num_layers": 1,
    "transformer.encoder.layer.attn.num_heads": 2,
    "transformer.encoder.layer.ffn.feedforward_dim": 48,
    "transformer.decoder.num_layers": 2,
    "position_embedding.num_pos_feats": 32,
}
DETR = {**SMALL}
DINO = {
    **SMALL,
    "backbone.out_features": ["res2", "res3"],
    "neck.in_channels": {"res2": 64, "res3": 128},
    "transformer.num_feature_levels": 3,
    "postprocessor.num_detections": 10,
    # Each process draws the noise of its own images. Padding of denoising queries is attended to, and its amount
    # depends on the other images of the batch.
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
# A cross-entropy averaged over queries weights each object by the number of objects in its process. In "even", each
# image has one object.
DATA = {"detr": "even", "dino": "uneven"}


def config(folder, name, *overrides, model="detr"):
    """Create the config of a run in `folder / name` on the shapes in `folder`."""
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
    """Copy a finished run in its state after the second step."""
    shutil.copytree(folder / name, folder / copy)
    (folder / copy / "model_final.pth").unlink()
    (folder / copy / "model_best.pth").unlink()
    (folder / copy / "last_checkpoint").write_text("model_0000002.pth")


@contextlib.contextmanager
def traced():
    """Within this context torch.compile creates and counts graphs, but runs them eagerly, without a C++ compiler."""
    graphs = CompileCounter()
    with mock.patch.object(torch, "compile", functools.partial(torch.compile, backend=graphs)):
        yield graphs


def run_compiled_in_two_processes(folder):
    with traced():
        run(folder, "dino_by_two", "train.compile=True", "train.static_graph=True", model="dino")


def run_in_two_processes(folder):
    """Run everything that needs two processes in a single start of them."""
    results = {}
    results["detr"] = run(folder, "detr_by_two", "train.static_graph=True")
    results["dino"] = run(folder, "dino_by_two", model="dino")
    run(folder, "dino_resumed_by_two", model="dino", resume=True)
    run(folder, "accumulated_by_two", "train.accumulate_steps=2", "dataloader.train.total_batch_size=2")
    sharding.UNIT_PARAMETERS = 100_000  # the larger blocks of a ResNet-18
    run(folder, "dino_sharded", "train.fsdp=True", model="dino")
    run(folder, "dino_resumed_sharded", "train.fsdp=True", model="dino", resume=True)
    run(
        folder,
        "accumulated_sharded",
        "train.fsdp=True",
        "train.accumulate_steps=2",
        "dataloader.train.total_batch_size=2",
    )
    (folder / f"results_{distributed.rank()}.json").write_text(json.dumps(results))
