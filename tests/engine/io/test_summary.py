from types import SimpleNamespace

import torch

from detrex_lite.engine import get_param_groups
from detrex_lite.engine.io.summary import describe_run
from detrex_lite.engine.settings import Lengths
from detrex_lite.layers import MultiScaleDeformableAttention

from ..tiny import TinyDetector


def rows(**changes):
    model = TinyDetector()
    model.head.requires_grad_(False)
    cells = SimpleNamespace(
        name="cells",
        num_boxes=4096,
        num_classes=3,
        has_annotations=True,
        dropped={"no area": 2, "outside of the image": 0},
        clipped=5,
    )
    arguments = {
        "model": model,
        "optimizer": torch.optim.AdamW(
            get_param_groups(model, base_lr=1e-3, backbone_lr_factor=0.1), lr=1e-3, weight_decay=1e-4
        ),
        "device": torch.device("cpu"),
        "amp_dtype": None,
        "weights": "from scratch",
        "datasets": {"training": Sized(cells, 1234), "validation": None},
        "lengths": Lengths(max_iter=1000, eval_period=250, checkpoint_period=0, epoch=100.0),
        "batch_size": 16,
        "accumulate_steps": 2,
        **changes,
    }
    lines = describe_run(**arguments).splitlines()
    return [tuple(line.split("  ", 1)) for line in lines]


class Sized:
    def __init__(self, dataset, length):
        self.__dict__.update(vars(dataset))
        self.length = length

    def __len__(self):
        return self.length


def text(name, **changes):
    return [value.strip() for key, value in rows(**changes) if key == name]


def test_every_topic_has_a_line():
    names = [name for name, _ in rows()]
    topics = ["device", "attention", "precision", "model", "weights", "training", "validation", "batch", "length"]
    assert names == [*topics, "learning rate", "learning rate"]


def test_the_kernel_of_deformable_attention_is_said_where_a_model_has_it(monkeypatch):
    assert text("deformable attention") == []
    model = TinyDetector()
    model.attention = MultiScaleDeformableAttention(8, 2, num_levels=1)
    assert text("deformable attention", model=model)[0].startswith("embedding_bag (torch's embedding_bag")
    monkeypatch.setenv("DETREX_LITE_DEFORMABLE_ATTENTION", "reference")
    assert text("deformable attention", model=model)[0].startswith("reference (plain")


def test_what_is_said():
    assert text("device")[0].startswith("cpu (")
    assert "scaled_dot_product_attention: flash, math" in text("attention")[0]
    assert text("model") == ["TinyDetector, 111 parameters, 48 trainable, 3 classes"]
    assert text("training") == [
        "cells: 1,234 images, 4,096 boxes, 3 classes; boxes left out: 2 no area; 5 clipped to their image"
    ]
    assert text("batch") == ["16 images x 1 process x 2 batches = 32 images a step"]
    assert text("length") == [
        "1,000 steps = 10 epochs; checkpoint at the end, evaluation every 250 steps = 2.5 epochs and at the end"
    ]
    assert text("learning rate") == [
        "0.0001, weight decay 0.0001: 32 parameters (AdamW)",
        "0.001, weight decay 0.0001: 16 parameters (AdamW)",
    ]


def test_what_several_processes_change_and_what_not(monkeypatch):
    assert text("processes") == []
    monkeypatch.setattr("detrex_lite.distributed.world_size", lambda: 4)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    assert text("processes") == [
        "4 by gloo, gradients averaged (DistributedDataParallel); each takes 4 of the 16 images of a batch, so that "
        "learning rate, steps and periods are those of one process"
    ]
    assert text("batch") == ["4 images x 4 processes x 2 batches = 32 images a step"]
    assert text("processes", batch_size=None)[0].endswith("; each loads batches of its own")


def test_precision():
    assert text("precision") == ["float32"]
    assert text("precision", amp_dtype=torch.bfloat16) == ["float32 with bfloat16 autocast"]


def test_a_data_set_without_annotations():
    bare = SimpleNamespace(name="photos", num_classes=3, has_annotations=False, dropped={}, clipped=0)
    assert text("validation", datasets={"validation": Sized(bare, 5)}) == [
        "photos: 5 images, no annotations, 3 classes"
    ]


def test_what_is_not_known_is_not_claimed():
    assert text("batch", batch_size=None) == ["2 batches a step"]
    lengths = Lengths(max_iter=5, eval_period=0, checkpoint_period=2, epoch=None)
    assert text("length", lengths=lengths) == [
        "5 steps; checkpoint every 2 steps and at the end, evaluation at the end"
    ]
